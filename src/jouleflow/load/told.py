"""What a server itself has counted: Triton's statistics of a model, and jouleflow's energy. Two readings around a load give what
happened in it. A server that does not tell something leaves it out; nothing is made up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

STAGES = ("compute_input", "compute_infer", "compute_output")
ENDS = ("completed", "rejected", "expired", "cancelled", "failed")


@dataclass(frozen=True, slots=True)
class Counted:
    """Since the server began. queue_s, compute_s: summed over the n_answered requests. ends: how requests ended, of jouleflow only."""

    n_answered: int
    n_rows: int
    n_batches: int
    queue_s: float
    compute_s: float
    ends: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Energy:
    """Of the whole server since it began. provenance: "measured" or "modelled"; source: by what, for people."""

    energy_j: float
    provenance: str
    source: str


@dataclass(frozen=True, slots=True)
class Told:
    """One reading; None: the server does not say. slo_s: the model's own; 0: it has none, or the server does not say."""

    counted: Counted | None = None
    energy: Energy | None = None
    slo_s: float = 0.0


def read_told(get: Callable[[str], Any], model: str) -> Told:
    """A reading. get: the JSON at a path of the server, None when there is nothing."""
    stats, live = get(f"/v2/models/{model}/stats"), get("/live.json")
    counted, energy, slo_s = None, None, 0.0
    if stats is not None:
        one = stats["model_stats"][0]
        spent = one["inference_stats"]
        counted = Counted(
            spent["success"]["count"],
            one["inference_count"],
            one["execution_count"],
            spent["queue"]["ns"] * 1e-9,
            sum(spent[stage]["ns"] for stage in STAGES) * 1e-9,
            {end: one["jouleflow"][end] for end in ENDS} if "jouleflow" in one else {},
        )
    if live is not None:
        energy = Energy(live["energy_j"], live["meter"]["provenance"], live["meter"]["source"])
        slo_s = live["models"][model]["slo_s"]
    return Told(counted, energy, slo_s)


def between(before: Told, after: Told, latency_mean_s: float | None) -> dict[str, Any]:
    """What happened between two readings. latency_mean_s: as the client saw it; what the server does not account for is the network's and
    the client's.

    server: means of a request in the queue and in its batch, rows of a batch, how requests ended; energy: of the whole server, with its
    provenance. Either is None when the server does not say, or was started again in between.
    """
    n_answered, out = 0, dict[str, Any](server=None, energy=None)
    if before.counted and after.counted and after.counted.n_answered >= before.counted.n_answered:
        a, b = after.counted, before.counted
        n_answered, n_batches = a.n_answered - b.n_answered, a.n_batches - b.n_batches
        queue_s, compute_s = (
            (x / n_answered if n_answered else None) for x in (a.queue_s - b.queue_s, a.compute_s - b.compute_s)
        )
        away_s = None
        if latency_mean_s is not None and queue_s is not None and compute_s is not None:
            away_s = max(latency_mean_s - queue_s - compute_s, 0.0)
        out["server"] = {
            "answered": n_answered,
            "queue_mean_s": queue_s,
            "compute_mean_s": compute_s,
            "network_and_client_mean_s": away_s,
            "rows_per_batch": (a.n_rows - b.n_rows) / n_batches if n_batches else None,
            "ends": {end: n - b.ends.get(end, 0) for end, n in a.ends.items()},
        }
    if before.energy and after.energy and after.energy.energy_j >= before.energy.energy_j:
        spent_j = after.energy.energy_j - before.energy.energy_j
        n_rows = (
            after.counted.n_rows - before.counted.n_rows if out["server"] and after.counted and before.counted else 0
        )
        out["energy"] = {
            "provenance": after.energy.provenance,
            "source": after.energy.source,
            "energy_j": spent_j,
            "j_per_request": spent_j / n_answered if n_answered else None,
            "j_per_inference": spent_j / n_rows if n_rows else None,
        }
    return out


def energy_of_all(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What a whole server spent between two readings of its /live.json, over the requests of all its models that completed meanwhile. Keys
    end in the meter's provenance, so that what is measured and what is modelled never have one name. j_per_request: None when
    nothing completed.

    A mean of the page's ratios of each second would be another figure: a second with little to do counts as much there as a full one.
    """
    provenance = after["meter"]["provenance"]
    spent_j = after["energy_j"] - before["energy_j"]
    n_completed = sum(
        sum(model["totals"]["completed"] for model in live["models"].values()) * sign
        for live, sign in ((after, 1), (before, -1))
    )
    return {
        **after["meter"],
        "n_completed": n_completed,
        f"energy_j_{provenance}": spent_j,
        f"j_per_request_{provenance}": spent_j / n_completed if n_completed > 0 else None,
    }
