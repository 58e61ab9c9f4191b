"""The page of a sweep: which capacitor to buy, as curves, advice and a table."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from string import Template

import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

from jouleflow.explore.sweep import Cell
from jouleflow.report.figures import PALETTE, style_figure
from jouleflow.units import format_quantity as q

NEARLY_BEST_FRAC = 0.1  # a smaller capacitor that is at most so much slower is the one to buy


def _name(cell: Cell, others: list[Cell]) -> str:
    """What tells this cell's curve from the others'."""
    parts = [cell.system, Path(cell.harvest).name.removesuffix(".gz").removesuffix(".csv")]
    if len({c.planner for c in others}) > 1:
        parts.append(cell.planner)
    if len({c.sram_bytes for c in others}) > 1:
        parts.append("all SRAM" if cell.sram_bytes is None else q(cell.sram_bytes, "B"))
    return ", ".join(parts)


def _curves(cells: list[Cell]) -> dict[str, list[Cell]]:
    """Feasible cells by curve, in order of the capacitor."""
    curves: dict[str, list[Cell]] = {}
    for cell in sorted(cells, key=lambda c: c.capacitance_f):
        curves.setdefault(_name(cell, cells), [])
        if cell.latency_s is not None:
            curves[_name(cell, cells)].append(cell)
    return curves


def capacitor_figure(cells: list[Cell], value: str, title: str, unit: str, scale: float = 1.0) -> go.Figure:
    """A value of the cells over the capacitor, one line a board, trace, planner and SRAM; both axes logarithmic."""
    figure = go.Figure()
    for i, (name, curve) in enumerate(_curves(cells).items()):
        figure.add_trace(
            go.Scatter(
                x=[c.capacitance_f * 1e6 for c in curve], y=[getattr(c, value) * scale for c in curve], name=name, mode="lines+markers",
                line={"color": PALETTE[i % len(PALETTE)]},
                hovertemplate=f"{html.escape(name)}<br>%{{x:g}} uF: %{{y:.4g}} {unit}<extra></extra>",
            )
        )  # fmt: skip
    tried = sorted({c.capacitance_f for c in cells})
    ticks = {"tickvals": [f * 1e6 for f in tried], "ticktext": [q(f, "F") for f in tried], "minor": {"ticks": ""}}
    figure.update_xaxes(title_text="capacitor", type="log", **ticks)
    values = [getattr(c, value) * scale for c in cells if c.latency_s is not None]
    _label_values(figure, f"{title}, {unit}", values)
    return style_figure(figure, 430)


def _label_values(figure: go.Figure, title: str, values: list[float]) -> None:
    """A logarithmic axis where values span more than a decade."""
    if values and max(values) > 10 * min(values):
        figure.update_yaxes(title_text=title, type="log", exponentformat="power", dtick=1)
    else:
        figure.update_yaxes(title_text=title, rangemode="tozero")


def sram_figure(cells: list[Cell]) -> go.Figure:
    """Latency over the SRAM budget, one line a board, trace and planner, with the capacitor that most budgets work with."""
    figure = go.Figure()
    curves: dict[str, list[Cell]] = {}
    works = [c.capacitance_f for c in cells if c.sram_bytes and c.latency_s]
    most = max(sorted(set(works)), key=works.count, default=0.0)
    chosen = [c for c in cells if c.sram_bytes and c.latency_s and c.capacitance_f == most]
    for cell in sorted(chosen, key=lambda c: c.sram_bytes or 0):
        trace = Path(cell.harvest).name.removesuffix(".gz").removesuffix(".csv")
        curves.setdefault(f"{cell.system}, {trace}, {cell.planner}, {q(cell.capacitance_f, 'F')}", []).append(cell)
    for i, (name, curve) in enumerate(curves.items()):
        figure.add_trace(
            go.Scatter(
                x=[(c.sram_bytes or 0) / 1024 for c in curve], y=[c.latency_s for c in curve], name=name, mode="lines+markers",
                line={"color": PALETTE[i % len(PALETTE)]}, hovertemplate=f"{html.escape(name)}<br>%{{x:g}} kB: %{{y:.4g}} s<extra></extra>",
            )
        )  # fmt: skip
    tried = sorted({c.sram_bytes for c in cells if c.sram_bytes})
    figure.update_xaxes(
        title_text="SRAM", type="log", tickvals=[b / 1024 for b in tried], ticktext=[q(b, "B") for b in tried]
    )
    _label_values(figure, "between answers, s", [c.latency_s for c in chosen if c.latency_s])
    return style_figure(figure, 430)


def advice(cells: list[Cell], deadline_s: float | None = None) -> list[str]:
    """One sentence a curve, with the most SRAM that was tried: the capacitor to buy."""
    lines = []
    for name, curve in _curves([c for c in cells if c.sram_bytes == _most_sram(cells)]).items():
        if not curve:
            lines.append(f"{name}: none of these capacitors works.")
            continue
        best = min(c.latency_s or 0.0 for c in curve)
        nearly = [c for c in curve if (c.latency_s or 0.0) <= best * (1 + NEARLY_BEST_FRAC)]
        pick = nearly[0]
        text = (
            f"{name}: {q(pick.capacitance_f, 'F')}, an answer every {q(pick.latency_s or 0.0, 's')} and the first after "
            f"{q(pick.first_s or 0.0, 's')}; {q(pick.energy_j or 0.0, 'J')} each."
        )
        if deadline_s is not None:
            in_time = [c for c in curve if (c.p99_s or 0.0) <= deadline_s]
            text += (
                f" Within {q(deadline_s, 's')}: from {q(in_time[0].capacitance_f, 'F')}."
                if in_time
                else f" None answers within {q(deadline_s, 's')}."
            )
        lines.append(text)
    return lines


def write_sweep_page(cells: list[Cell], model: str, path: Path, deadline_s: float | None = None) -> Path:
    """Writes the page and returns its path: one file, no network, every name from outside escaped."""
    style = (files("jouleflow") / "report" / "page.css").read_text()
    script = (files("jouleflow") / "report" / "page.js").read_text()
    template = Template((files("jouleflow") / "explore" / "page.html").read_text())
    widest = [c for c in cells if c.sram_bytes == _most_sram(cells)]
    figures = [
        ("latency", "How often an answer comes", capacitor_figure(widest, "latency_s", "between answers", "s")),
        (
            "first",
            "How long the first answer takes, from an empty store",
            capacitor_figure(widest, "first_s", "first answer", "s"),
        ),
        ("energy", "What an answer costs", capacitor_figure(widest, "energy_j", "energy an answer", "mJ", 1e3)),
    ]
    if len({c.sram_bytes for c in cells}) > 1:
        figures.append(("sram", "What SRAM buys", sram_figure(cells)))
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(
        template.substitute(
            title=html.escape(f"{model}: which capacitor"), style=style, plotly=get_plotlyjs(), script=script,
            model=html.escape(model), advice="".join(f"<li>{html.escape(a)}</li>" for a in advice(cells, deadline_s)),
            figures="".join(_section(*f) for f in figures), table=_table(cells), n_cells=len(cells),
        )
    )  # fmt: skip
    fresh.replace(path)
    return path


def _most_sram(cells: list[Cell]) -> int | None:
    budgets = {c.sram_bytes for c in cells}
    return None if None in budgets else max(b for b in budgets if b is not None)


def _section(name: str, title: str, figure: go.Figure) -> str:
    data = plotly.io.to_json(figure, validate=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    return f'<section><h2>{title}</h2><div class=figure id="{name}"></div><script type="application/json" data-figure="{name}">{data}</script></section>'


def _table(cells: Iterable[Cell]) -> str:
    names = (
        "board",
        "harvest",
        "planner",
        "capacitor",
        "SRAM",
        "between answers",
        "p99",
        "first answer",
        "energy",
        "failures",
        "why not",
    )
    body = []
    for c in cells:
        values: list[tuple[str, object]] = [
            (html.escape(c.system), c.system), (html.escape(Path(c.harvest).name), c.harvest), (c.planner, c.planner),
            (q(c.capacitance_f, "F"), c.capacitance_f), ("all" if c.sram_bytes is None else q(c.sram_bytes, "B"), c.sram_bytes or 1 << 40),
            *((q(v, u) if v is not None else "", v if v is not None else 1e30) for v, u in ((c.latency_s, "s"), (c.p99_s, "s"), (c.first_s, "s"), (c.energy_j, "J"))),
            (str(c.n_power_failures), c.n_power_failures), (html.escape(c.why[:120]), c.why),
        ]  # fmt: skip
        body.append(
            "<tr>" + "".join(f'<td data-v="{html.escape(json.dumps(v))}">{t}</td>' for t, v in values) + "</tr>"
        )
    head = "".join(f"<th>{n}</th>" for n in names)
    return f"<table class=sortable><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
