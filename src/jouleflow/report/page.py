"""The HTML page of a run: one file, no network, every name from outside escaped."""

from __future__ import annotations

import html
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from string import Template

import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

from jouleflow.record.run import Run
from jouleflow.report.figures import MAX_BARS, charge_figure, energy_figure, latency_figure, time_figure, voltage_figure
from jouleflow.report.summary import (
    deadline_misses,
    energy_per_inference_j,
    nvm_lifetime_years,
    percentile_s,
    years_in_words,
)
from jouleflow.units import format_quantity as q


def write_page(run: Run, path: Path) -> Path:
    """Writes the page of a run and returns its path."""
    template = Template((files("jouleflow") / "report" / "page.html").read_text())
    style = (files("jouleflow") / "report" / "page.css").read_text()
    script = (files("jouleflow") / "report" / "page.js").read_text()
    figures: list[tuple[str, str, Callable[[Run], go.Figure]]] = [
        ("voltage", "Capacitor and work", voltage_figure),
        ("charge", "One charge, close up", charge_figure),
        ("energy", "Where the energy went", energy_figure),
        ("time", "Where the time went", time_figure),
    ]
    if run.n_inferences > 5:
        figures.append(("latency", "How late the answers were", latency_figure))
    sections = {name: _section(name, title, make(run)) for name, title, make in figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    text = template.substitute(
        title=html.escape(f"{run.model} on {run.device}"),
        style=style,
        plotly=get_plotlyjs(),
        script=script,
        heading=_heading(run),
        cards=_cards(run),
        predicted=_predicted(run),
        layers=_layers(run),
        details=_details(run),
        voltage=sections["voltage"] + sections["charge"],
        shares=sections["energy"] + sections["time"],
        latency=sections.get("latency", ""),
    )
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
    return path


def _section(name: str, title: str, figure: go.Figure) -> str:
    # "</script>" in a layer name must not end the script: < is written as an escape that JSON reads back
    data = plotly.io.to_json(figure, validate=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    note = ""
    if name == "charge":
        note = "<p class=note>A charge with a typical amount of work, from boot to power failure. Bars are layers: point at one to see which.</p>"
    if name == "voltage":
        note = f"<p class=note>Tiles of one layer that follow each other are drawn as one bar; at most {MAX_BARS:,} bars and markers are drawn. Drag to zoom, double-click to reset.</p>"
    return f'<section><h2>{title}</h2><div class=figure id="{name}"></div>{note}<script type="application/json" data-figure="{name}">{data}</script></section>'


def _heading(run: Run) -> str:
    badges = [f"<span class=badge>{run.provenance}</span>"]
    if run.harvest_synthetic:
        badges.append('<span class="badge warn">synthetic harvest</span>')
    if not run.complete:
        badges.append('<span class="badge bad">partial result</span>')
    lead = (
        f"{html.escape(run.device)}, {q(run.capacitance_f, 'F')} between {run.off_v:g} and {run.on_v:g} V, "
        f"on <b>{html.escape(run.harvest)}</b>, planner {html.escape(run.planner)}"
    )
    return f"<h1>{html.escape(run.model)}</h1><p class=lead>{lead}</p><p>{' '.join(badges)}</p>"


def _card(title: str, value: str, note: str = "", kind: str = "") -> str:
    return f'<div class="card {kind}"><div class=name>{title}</div><div class=value>{value}</div><div class=note>{note}</div></div>'


def _cards(run: Run) -> str:
    right = {True: ("yes", "bit for bit", "good"), False: ("NO", "they differ", "bad"), None: ("unchecked", "", "")}
    answer, note, kind = right[run.outputs_match_reference]
    p50, p99 = percentile_s(run, 50), percentile_s(run, 99)
    cards = [
        _card("Answers equal the reference", answer, f"{note}, {run.n_inferences} inferences".strip(", "), kind),
        _card("Power failures survived", f"{run.n_power_failures:,}", f"{run.n_commits:,} commits"),
        _card(
            "Latency, median",
            q(p50, "s") if p50 is not None else "none",
            f"p99 {q(p99, 's')}, worst {q(max(run.latency_s), 's')}" if p99 is not None else "",
        ),
        _card(
            "Energy an inference", q(energy_per_inference_j(run), "J"), "drawn from the capacitor, failures included"
        ),
    ]
    if run.peak_sram_bytes:
        cards.append(
            _card(
                "Peak SRAM",
                q(run.peak_sram_bytes, "B"),
                f"of {q(run.sram_budget_bytes, 'B')}; flash {q(run.flash_bytes, 'B')}",
            )
        )
    if (misses := deadline_misses(run)) is not None and run.deadline_s is not None:
        cards.append(
            _card(
                "Deadline missed",
                str(misses),
                f"of {run.n_inferences}, at {q(run.deadline_s, 's')}",
                "bad" if misses else "good",
            )
        )
    if (years := nvm_lifetime_years(run)) is not None:
        cards.append(
            _card(
                "NVM lifetime",
                years_in_words(years),
                "until the most written byte wears out",
            )
        )
    return "".join(cards)


def _predicted(run: Run) -> str:
    if not run.latency_s:
        return ""
    rows = []
    mean = sum(run.latency_s) / len(run.latency_s)
    for name, predicted, got, unit in (
        ("latency", run.predicted.latency_s, mean, "s"),
        ("energy", run.predicted.energy_j, energy_per_inference_j(run), "J"),
    ):
        error = f"{predicted / got - 1:+.1%}" if got else ""
        rows.append(
            f"<tr><td>{name}, mean</td><td>{q(predicted, unit)}</td><td>{q(got, unit)}</td><td>{error}</td></tr>"
        )
    failures = run.n_power_failures / max(run.n_inferences, 1)
    rows.append(
        f"<tr><td>power failures an inference</td><td>{run.predicted.n_power_failures:.2f}</td><td>{failures:.2f}</td><td></td></tr>"
    )
    head = f"<tr><th></th><th>predicted ({run.predicted.provenance})</th><th>{run.provenance}</th><th>error</th></tr>"
    return f"<section><h2>Predicted beside {run.provenance}</h2><div class=scroll><table>{head}{''.join(rows)}</table></div></section>"


def _layers(run: Run) -> str:
    if not run.layers:
        return ""
    names = (
        "layer",
        "op",
        "output",
        "placement and tile",
        "params",
        "MACC",
        "instructions",
        "cycles",
        "energy, µJ",
        "NVM read, B",
        "NVM written, B",
        "tiles",
        "commits",
        "charges",
    )
    head = "".join(f"<th>{n}</th>" for n in names)
    most = max(r.charges for r in run.layers) or 1.0
    body = []
    for r in run.layers:
        cells: list[tuple[str, object]] = [
            (html.escape(r.name[:80]), r.name[:80]), (html.escape(r.op), r.op), ("x".join(map(str, r.out_shape)), r.out_shape[-1]), (html.escape(r.placement), r.placement),
            (f"{r.params:,}", r.params), (f"{r.macs:,}", r.macs), (f"{r.instructions:,}", r.instructions), (f"{r.cycles:,}", r.cycles),
            (f"{r.energy_j * 1e6:,.1f}", r.energy_j), (f"{r.nvm_read_bytes:,}", r.nvm_read_bytes), (f"{r.nvm_write_bytes:,}", r.nvm_write_bytes),
            (f"{r.n_tiles:,}", r.n_tiles), (str(r.n_commits), r.n_commits),
            (f'<span class=bar style="width:{60 * r.charges / most:.0f}px"></span>{r.charges:.3f}', r.charges),
        ]  # fmt: skip
        body.append(
            "<tr>" + "".join(f'<td data-v="{html.escape(json.dumps(v))}">{text}</td>' for text, v in cells) + "</tr>"
        )
    totals = f"{sum(r.macs for r in run.layers):,} MACC, {sum(r.params for r in run.layers):,} parameters, {sum(r.instructions for r in run.layers):,} instructions"
    return (
        f"<section><h2>Per layer, one uninterrupted inference</h2><p class=note>{totals}. A charge is the energy between on and off. "
        f"Cycles are estimated with zero wait states. Click a heading to sort.</p><div class=scroll><table class=sortable><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div></section>"
    )


def _details(run: Run) -> str:
    rows = {
        "model SHA-256": run.model_sha256, "revision": run.revision or "unknown", "seed": str(run.seed), "provenance": run.provenance,
        "instructions": f"{run.instructions:,}", "cycles (estimated, zero wait states)": f"{run.cycles:,}", "non-volatile memory used": q(run.nvm_bytes, "B"),
        "energy conservation error": f"{run.energy_j.imbalance_frac:.1e}",
    }  # fmt: skip
    body = "".join(f"<tr><td>{k}</td><td>{html.escape(v)}</td></tr>" for k, v in rows.items())
    answers = "".join(f"<li>{html.escape(a)}</li>" for a in run.answers[:50])
    listed = f"<h2>Answers</h2><ol>{answers}</ol>" if answers else ""
    return f"<section class=two><div><h2>How this was made</h2><div class=scroll><table>{body}</table></div></div><div>{listed}</div></section>"
