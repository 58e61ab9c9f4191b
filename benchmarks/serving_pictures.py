"""The serving benchmarks' results, as pictures in docs/.

python benchmarks/serving_pictures.py        (needs matplotlib; reads benchmarks/results/serving_*.json)
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from statistics import mean
from typing import Any

from setting import ROOT

PICTURES, RESULTS = ROOT / "docs" / "pictures", ROOT / "benchmarks" / "results"
COLOURS = {
    "bcedge": "#2a6fbb", "table": "#5fa3e0", "delay": "#c2571a", "fixed": "#8c6d46", "aimd": "#d99a2b", "deeprt": "#7a4fa3",
    "mosec": "#444444", "litserve": "#999999",
}  # fmt: skip
PEERS = {
    "raw": "ONNX Runtime\nin process", "jouleflow": "jouleflow", "mosec": "mosec", "mosec@32": "mosec,\nbatches of 32",
    "litserve": "LitServe", "mlserver": "MLServer", "bentoml": "BentoML", "ray": "Ray Serve",
}  # fmt: skip
Row = Mapping[str, Any]


def results(name: str) -> Any:
    return json.loads((RESULTS / f"serving_{name}.json").read_text())["results"]


def means(rows: Iterable[Row], key: Callable[[Row], Any], value: str) -> dict[Any, float]:
    groups: dict[Any, list[float]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row[value])
    return {k: mean(v) for k, v in groups.items()}


def panels(n: int, width: float, height: float) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "jouleflow", "font.size": 9})
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, n, figsize=(width, height), squeeze=False)
    for axis in axes[0]:
        axis.grid(True, lw=0.4, color="#dddddd")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[0]


def plain_ticks(axis: Any, ticks: tuple[float, ...]) -> None:
    """Those of a logarithmic axis that are within its limits, as plain numbers."""
    low, high = axis.get_view_interval()
    axis.set_ticks([t for t in ticks if low <= t <= high], [f"{t:g}" for t in ticks if low <= t <= high])
    axis.set_ticks([], minor=True)


def save(figure: Any, name: str, title: str, bottom: float) -> None:
    figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    figure.tight_layout(rect=(0, bottom, 1, 1))
    figure.savefig(PICTURES / f"{name}.svg", metadata={"Date": None})
    print(PICTURES / f"{name}.svg")


def in_hz(row: Row) -> Row:
    """A row of the overload with what arrived and what was answered in time, a second; a peer's row tells the first by its count."""
    capacity_hz = row.get("capacity_hz") or sum(row["statuses"].values()) / row["seconds"] / row["load"]
    return {
        "who": (row.get("model", "overload"), row.get("policy") or row["peer"], row["load"]),
        "offered_hz": row["load"] * capacity_hz,
        "goodput_hz": row["goodput_per_capacity"] * capacity_hz,
    }


def goodput_over_load() -> None:
    rows = [in_hz(r) for r in results("overload")["rows"] if "error" not in r]
    offered_hz, goodput_hz = (means(rows, lambda r: r["who"], name) for name in ("offered_hz", "goodput_hz"))
    loads = sorted({load for _, _, load in offered_hz})
    figure, axes = panels(2, 9.5, 3.9)
    for axis, model, title in zip(axes, ("overload", "overload_large"), ("small model", "large model"), strict=True):
        for who in (w for w in COLOURS if (model, w, loads[0]) in offered_hz):
            ours = who in ("bcedge", "table")
            axis.plot(
                [offered_hz[model, who, load] for load in loads], [goodput_hz[model, who, load] for load in loads],
                color=COLOURS[who], lw=2.2 if ours else 1.2, marker="o", ms=3, label=who, zorder=3 if ours else 2,
            )  # fmt: skip
        axis.set_xscale("log")
        plain_ticks(axis.xaxis, (20, 50, 100, 200, 500, 1000, 2000, 5000))
        axis.set_ylim(0, None)
        axis.set_title(title, fontsize=10, loc="left")
        axis.set_xlabel("requests a second")
    axes[0].set_ylabel("answers within the SLO, a second")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=8, fontsize=8, frameon=False)
    save(figure, "goodput_over_load", "Under overload, from half of capacity to ten times it (measured)", 0.07)


def utility_by_policy() -> None:
    rows = [r for r in results("utility")["rows"] if "utility" in r]
    at = means(rows, lambda r: (r["box"], r["rate_hz"], r["how"], r["policy"]), "utility")
    groups = [
        ("six", rate) for rate in sorted({r["rate_hz"] for r in rows if r["box"] == "six" and r["how"] == "measured"})
    ]
    policies = ("deeprt", "delay", "aimd", "fixed", "table", "bcedge")
    figure, (axis,) = panels(1, 8.0, 3.9)
    for k, policy in enumerate(policies):
        places = [g + (k - 2.5) * 0.14 for g in range(len(groups))]
        axis.bar(
            places, [at[box, rate, "measured", policy] for box, rate in groups], 0.13, color=COLOURS[policy], label=policy,
        )  # fmt: skip
        axis.plot(
            places, [at[box, rate, "simulated", policy] for box, rate in groups], "D", ms=4, mfc="white", mec="black", mew=0.8,
            label="simulated" if k == len(policies) - 1 else None,
        )  # fmt: skip
    axis.set_xticks(range(len(groups)), [f"{rate:g} requests/s a model" for _, rate in groups])
    axis.grid(False, axis="x")
    axis.set_ylabel("utility")
    figure.legend(*axis.get_legend_handles_labels(), loc="lower center", ncols=7, fontsize=8, frameon=False)
    save(figure, "utility_by_policy", "Six networks on two cores: utility of each policy (bars: measured)", 0.07)


def simulated_beside_real() -> None:
    found = results("simulated")["cases"]["simulated at its pace, by box, rate_hz, policy"]
    cases = [case for case in found if case["box"] == "six"]
    figure, axes = panels(2, 9.0, 4.6)
    for axis, figure_of, title in zip(axes, ("p50_of_slo", "p99_of_slo"), ("p50", "p99"), strict=True):
        both = [c["measured"][figure_of] for c in cases] + [c["simulated"][figure_of] for c in cases]
        ends = [min(both) * 0.8, max(both) * 1.2]
        axis.fill_between(ends, [0.9 * e for e in ends], [1.1 * e for e in ends], color="#e4e4e4", label="within 10 %")
        for policy in ("deeprt", "delay", "aimd", "fixed", "table", "bcedge"):
            mine = [c for c in cases if c["policy"] == policy]
            axis.plot(
                [c["measured"][figure_of] for c in mine], [c["simulated"][figure_of] for c in mine], "o", ms=6, alpha=0.9,
                color=COLOURS[policy], label=policy,
            )  # fmt: skip
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlim(*ends)
        axis.set_ylim(*ends)
        for each in (axis.xaxis, axis.yaxis):
            plain_ticks(each, (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5))
        axis.set_title(f"{title}, as a share of the SLO", fontsize=10, loc="left")
        axis.set_xlabel("measured")
    axes[0].set_ylabel("simulated")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=7, fontsize=8, frameon=False)
    save(
        figure,
        "simulated_beside_real",
        "The simulator beside the server: a dot is a policy at a rate, over four traces",
        0.06,
    )


def throughput_beside_peers() -> None:
    peers = results("peers")
    models = {"kws": "kws (DS-CNN)", "rn20": "rn20 (ResNet-20)", "mbv2": "mbv2 (MobileNetV2)"}
    figure, axes = panels(3, 10.0, 3.6)
    names = list(PEERS)
    for axis, (model, title) in zip(axes, models.items(), strict=True):
        values = [peers[model][name]["infer_per_s"] for name in names]
        colours = ["#cccccc" if n == "raw" else COLOURS["bcedge"] if n == "jouleflow" else "#8a8a8a" for n in names]
        bars = axis.barh(range(len(names)), values, color=colours)
        axis.bar_label(bars, [f" {v:,.0f}" for v in values], fontsize=8)
        axis.set_yticks(range(len(names)), [PEERS[n] for n in names] if axis is axes[0] else [""] * len(names))
        axis.invert_yaxis()
        axis.set_xlim(0, max(values) * 1.25)
        axis.set_xticks([])
        axis.grid(False)
        axis.spines["bottom"].set_visible(False)
        axis.set_title(title, fontsize=10, loc="left")
    save(figure, "throughput_beside_peers", "Answers a second at saturation, two cores, client included", 0.0)


def main() -> None:
    goodput_over_load()
    utility_by_policy()
    simulated_beside_real()
    throughput_beside_peers()


if __name__ == "__main__":
    main()
