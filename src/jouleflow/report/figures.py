"""The pictures of a run. Each takes a Run and returns a plotly figure; axes carry units made for reading."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from jouleflow.record.run import EVENT_KINDS, Events, Run
from jouleflow.report.text import ENERGY_WORDS, TIME_WORDS

PALETTE = ("#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2", "#9d755d", "#eeca3b", "#ff9da6", "#bab0ac")
MAX_BARS = 6000
INK, FAINT = "#6b7280", "rgba(128,128,128,0.18)"
FAILURE = "#d62728"


def style_figure(figure: go.Figure, height: int) -> go.Figure:
    """Our look: transparent, so that it suits a light and a dark page."""
    figure.update_layout(
        height=height, margin={"l": 60, "r": 20, "t": 30, "b": 45}, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13, "color": INK}, legend={"orientation": "h", "y": -0.2}, barmode="stack",
        hoverlabel={"namelength": -1},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "rgba(128,128,128,0.6)", "activecolor": PALETTE[0]},
        legend_traceorder="normal",
    )  # fmt: skip
    figure.update_xaxes(gridcolor=FAINT, zerolinecolor=FAINT)
    figure.update_yaxes(gridcolor=FAINT, zerolinecolor=FAINT)
    return figure


def busiest_charge(run: Run) -> Run:
    """The run cut to one charge: the one with the median amount of work, from shortly before its boot to its death."""
    e = run.events
    boots = np.flatnonzero(e.kind == EVENT_KINDS.index("boot"))
    if boots.size == 0:
        return run
    ends = np.append(boots[1:], len(e))
    order = np.argsort(ends - boots)
    k = int(order[len(order) // 2])
    first, last = int(boots[k]), int(ends[k])
    if e.kind[last - 1] == EVENT_KINDS.index("charge"):
        last -= 1
    window = slice(first, max(last, first + 1))
    start = float(e.time_s[first])
    columns = {f.name: getattr(e, f.name)[window] for f in fields(e)}
    columns["time_s"] = columns["time_s"] - start
    events = Events(**columns)
    before = (
        run.voltage_v[np.searchsorted(run.voltage_time_s, start, side="right") - 1] if run.voltage_v.size else run.on_v
    )
    ends_s = events.time_s + events.duration_s
    voltage = np.concatenate([[before], events.voltage_v])
    return replace(run, events=events, voltage_time_s=np.concatenate([[0.0], ends_s]), voltage_v=voltage)


def charge_figure(run: Run) -> go.Figure:
    """One charge, close up: the store runs down while tiles are computed and committed."""
    return voltage_figure(busiest_charge(run))


def _time_unit(longest_s: float) -> tuple[float, str]:
    for size, name in ((86400.0 * 2, "h"), (300.0, "min"), (1.0, "s")):
        if longest_s >= size:
            return {"h": 3600.0, "min": 60.0, "s": 1.0}[name], name
    return 1e-3, "ms"


def failures_at_s(run: Run) -> np.ndarray:
    """Times of the power failures: when a charge or boot begins after something else."""
    e = run.events
    charge = EVENT_KINDS.index("charge")
    starts = e.time_s[(e.kind == charge) & (e.time_s > 0)]
    return np.asarray(starts)


def voltage_figure(run: Run) -> go.Figure:
    """Store voltage over time, and below it, on the same axis, what ran: layers, commits, failures."""
    end = float(run.voltage_time_s[-1]) if run.voltage_time_s.size else 1.0
    scale, unit = _time_unit(end)
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.6, 0.4], vertical_spacing=0.06)
    figure.add_trace(
        go.Scattergl(
            x=run.voltage_time_s / scale, y=run.voltage_v, mode="lines", line={"width": 1.3, "color": PALETTE[0]}, name="store voltage",
            hovertemplate=f"%{{x:.4g}} {unit}: %{{y:.3f}} V<extra></extra>", showlegend=False,
        ), row=1, col=1,
    )  # fmt: skip
    for value, text in ((run.on_v, "on"), (run.off_v, "off"), (run.max_v, "max")):
        if text == "max" and (not run.voltage_v.size or run.voltage_v.max() < 0.9 * run.max_v):
            continue
        figure.add_hline(
            y=value,
            line={"width": 1, "dash": "dot", "color": INK},
            annotation_text=f"{text} {value:g} V",
            annotation_position="top left",
            row=1,
            col=1,
        )
    _add_timeline(figure, run, scale, unit)
    figure.update_yaxes(title_text="store, V", row=1, col=1)
    figure.update_yaxes(showticklabels=False, range=[-0.2, 3.1], row=2, col=1, showgrid=False)
    figure.update_xaxes(title_text=f"time, {unit}", row=2, col=1)
    return style_figure(figure, 520)


def _add_timeline(figure: go.Figure, run: Run, scale: float, unit: str) -> None:
    e = run.events
    tile = EVENT_KINDS.index("tile")
    starts, durations, layers = _merge(run, tile)
    total = float(e.time_s[-1] + e.duration_s[-1]) if len(e) else 1.0
    names = [r.name for r in run.layers]
    for layer in np.unique(layers):
        pick = layers == layer
        label = names[layer][:40] if 0 <= layer < len(names) else "work"
        figure.add_trace(
            go.Bar(
                x=np.maximum(durations[pick], 0) / scale, base=starts[pick] / scale, y=np.full(pick.sum(), 2.0), orientation="h", width=0.9,
                marker={"color": PALETTE[int(layer) % len(PALETTE)], "line": {"width": 0}}, name=f"{layer} {_plain(label)}", showlegend=False, textposition="inside", insidetextanchor="middle",
                text=[_short(label) if wide else "" for wide in durations[pick] > 0.08 * total],
                hovertemplate=f"{_plain(label)}<br>from %{{base:.5g}} {unit}<extra></extra>",
            ), row=2, col=1,
        )  # fmt: skip
    for kind, colour in (("boot", PALETTE[6]), ("recover", PALETTE[4]), ("commit", PALETTE[2])):
        starts, durations, _ = _merge(run, EVENT_KINDS.index(kind))
        figure.add_trace(
            go.Bar(
                x=durations / scale, base=starts / scale, y=np.full(starts.size, 1.0), orientation="h", width=0.7, marker={"color": colour, "line": {"width": 0}},
                name={"recover": "recovery"}.get(kind, kind), hovertemplate=f"{kind} from %{{base:.5g}} {unit}<extra></extra>",
            ), row=2, col=1,
        )  # fmt: skip
    for times, y, symbol, colour, label in ((failures_at_s(run), 0.3, "x", FAILURE, "power failure"),):
        shown = times if times.size <= MAX_BARS else times[:: times.size // MAX_BARS + 1]
        figure.add_trace(
            go.Scattergl(
                x=shown / scale, y=np.full(shown.size, y), mode="markers", marker={"symbol": symbol, "size": 8, "color": colour, "line": {"width": 1, "color": colour}},
                name=label, hovertemplate=f"{label} at %{{x:.5g}} {unit}<extra></extra>",
            ), row=2, col=1,
        )  # fmt: skip


def _short(text: str) -> str:
    """The part of a layer name that tells it from others, for a label in a bar."""
    return "/".join(_plain(text).strip("/").split("/")[-2:])[:18]


def _plain(text: str) -> str:
    """Names come from model files: plotly reads some markup in labels, so it is taken out."""
    return text.replace("<", "‹").replace(">", "›").replace("&", "+").replace("%{", "{")


def _merge(run: Run, kind: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tiles of one layer that follow each other become one bar; beyond MAX_BARS, neighbours are merged coarser."""
    e = run.events
    pick = e.kind == kind
    start, end, layer = e.time_s[pick], e.time_s[pick] + e.duration_s[pick], e.layer[pick]
    gap = 1e-4
    while True:
        if start.size == 0:
            return start, start, layer
        new = np.ones(start.size, bool)
        new[1:] = (layer[1:] != layer[:-1]) | (start[1:] - end[:-1] > gap)
        first = np.flatnonzero(new)
        last = np.append(first[1:] - 1, start.size - 1)
        if first.size <= MAX_BARS or gap > 1e6:
            return start[first], end[last] - start[first], layer[first]
        if gap > 1.0:  # too many layers: keep the longest bars
            duration = end[last] - start[first]
            keep = np.sort(np.argsort(-duration)[:MAX_BARS])
            return start[first][keep], duration[keep], layer[first][keep]
        gap *= 10


def energy_figure(run: Run) -> go.Figure:
    """Where the harvested energy went, one stacked bar."""
    parts = [(word, getattr(run.energy_j, name)) for name, word in ENERGY_WORDS.items()]
    return _stacked(parts, 1e-3, "mJ", "harvested")


def time_figure(run: Run) -> go.Figure:
    """Where the time went, one stacked bar."""
    parts = [(word, getattr(run.time_s, name)) for name, word in TIME_WORDS.items()]
    scale, unit = _time_unit(run.time_s.total_s)
    return _stacked(parts, scale, unit, "time")


def _stacked(parts: list[tuple[str, float]], scale: float, unit: str, label: str) -> go.Figure:
    total = sum(max(v, 0.0) for _, v in parts) or 1.0
    figure = go.Figure()
    for k, (word, value) in enumerate(parts):
        if value <= 0:
            continue
        figure.add_trace(
            go.Bar(
                x=[value / scale], y=[label], orientation="h", name=f"{word} {value / total:.1%}", marker_color=PALETTE[k % len(PALETTE)],
                hovertemplate=f"{word}: {value / scale:.4g} {unit} ({value / total:.1%})<extra></extra>",
            )
        )  # fmt: skip
    figure.update_xaxes(title_text=unit)
    figure.update_yaxes(showticklabels=False)
    figure.update_layout(showlegend=True)
    styled = style_figure(figure, 260)
    styled.update_layout(legend={"orientation": "h", "y": -0.75, "font": {"size": 12}})
    return styled


def latency_figure(run: Run) -> go.Figure:
    """The share of inferences answered within a time, with the deadline and the prediction."""
    latency = np.sort(np.array(run.latency_s))
    scale, unit = _time_unit(float(latency[-1]) if latency.size else 1.0)
    share = np.arange(1, latency.size + 1) / max(latency.size, 1)
    figure = go.Figure(
        go.Scatter(
            x=latency / scale,
            y=share * 100,
            mode="lines+markers",
            line={"shape": "hv", "color": PALETTE[0]},
            name=run.provenance,
        )
    )
    figure.add_vline(
        x=run.predicted.latency_s / scale,
        line={"dash": "dash", "color": PALETTE[1]},
        annotation_text="predicted mean",
        annotation_position="bottom right",
    )
    if run.deadline_s is not None:
        figure.add_vline(x=run.deadline_s / scale, line={"color": FAILURE}, annotation_text="deadline")
    figure.update_xaxes(title_text=f"latency, {unit}", rangemode="tozero")
    figure.update_yaxes(title_text="inferences answered, %", range=[0, 103])
    return style_figure(figure, 320)
