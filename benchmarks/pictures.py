"""Latency over SRAM (2 to 256 kB) and over the capacitor for the MLPerf Tiny models, simulated, as pictures in docs/.

python benchmarks/pictures.py        (needs matplotlib; goes on where it was stopped)
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from setting import MLPERF, ROOT, data_dir, model_path, write_json

from jouleflow.explore.sweep import Cell, Sweep, run_sweep

TRACES = ("rf_powercast_mobile", "indoor_light_loc1")
SRAM_BYTES = tuple(1024 * k for k in (2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256))
CAPACITORS_F = tuple(c * 1e-6 for c in (22, 47, 100, 220, 470, 1000, 2200, 4700, 10000))
BOARDS = ("riotee", "apollo4")
NAMES = {
    "ad01": "anomaly detection",
    "kws": "keyword spotting",
    "resnet8": "image classification",
    "vww": "visual wake words",
}
COLOURS = ("#2a6fbb", "#c2571a")


def cells(model: str, name: str, **changes: object) -> list[Cell]:
    """The cells of one model; kept in jouleflow-out, so that an interrupted run goes on."""
    harvests = tuple(str(data_dir() / "harvest" / f"{t}.csv.gz") for t in TRACES)
    sweep = Sweep(str(model_path(model)), BOARDS, harvests, planners=("adaptive", "tile"), **changes)  # type: ignore[arg-type]
    print(f"{name} {model}", file=sys.stderr, flush=True)
    return run_sweep(sweep, ROOT / "jouleflow-out" / "pictures" / f"{name}_{model}")


def draw(
    path: Path, found: dict[str, list[Cell]], of: str, label: str, scale: float, ticks: tuple[float, ...], title: str
) -> None:
    """One panel a model: seconds from answer to answer over the field `of`, one line a board and trace."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "jouleflow", "svg.fonttype": "none", "font.family": "sans-serif"})
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter

    figure, axes = plt.subplots(2, 2, figsize=(10, 7), sharex=True)
    for axis, (model, its_cells) in zip(axes.flat, found.items(), strict=True):
        for b, board in enumerate(BOARDS):
            for t, trace in enumerate(TRACES):
                best: dict[float, float] = {}
                for c in its_cells:
                    if c.system == board and Path(c.harvest).name.startswith(trace) and c.latency_s:
                        at = getattr(c, of) * scale
                        best[at] = min(best.get(at, c.latency_s), c.latency_s)
                line = {"color": COLOURS[b], "ms": 4, "lw": 1.5, "label": f"{board}, {trace}"}
                axis.plot(*zip(*sorted(best.items()), strict=True), ("o-", "s--")[t], **line)
        axis.set(xscale="log", yscale="log", title=NAMES[model])
        axis.set_xticks(ticks, minor=False)
        axis.set_xticks([], minor=True)
        for each in (axis.xaxis, axis.yaxis):
            each.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        axis.yaxis.set_minor_formatter(FuncFormatter(lambda v, _: f"{v:g}" if f"{v:.0e}"[0] in "25" else ""))
        axis.grid(True, which="both", lw=0.4, color="#dddddd")
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("between answers, s")
    for axis in axes[1]:
        axis.set_xlabel(label)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="lower center", ncols=4, fontsize=9, frameon=False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    print(path)


def main() -> None:
    over_sram = {m: cells(m, "sram", capacitances_f=(470e-6,), sram_bytes=SRAM_BYTES) for m in MLPERF}
    over_capacitor = {m: cells(m, "capacitor", capacitances_f=CAPACITORS_F) for m in MLPERF}
    docs = ROOT / "docs" / "pictures"
    draw(
        docs / "latency_over_sram.svg", over_sram, "sram_bytes", "SRAM, kB", 1 / 1024, (2, 4, 8, 16, 32, 64, 128, 256),
        "What SRAM buys (470 µF, the better of adaptive and tile, simulated)",
    )  # fmt: skip
    draw(
        docs / "latency_over_capacitor.svg", over_capacitor, "capacitance_f", "capacitor, µF", 1e6, (22, 47, 100, 220, 470, 1000, 2200, 4700, 10000),
        "What the capacitor buys (all SRAM, the better of adaptive and tile, simulated)",
    )  # fmt: skip
    both = {"sram": over_sram, "capacitor": over_capacitor}
    write_json(
        "pictures",
        {k: {m: [{**asdict(c), "harvest": Path(c.harvest).name, "why": c.why[:120]} for c in cs] for m, cs in v.items()} for k, v in both.items()},
    )  # fmt: skip


if __name__ == "__main__":
    main()
