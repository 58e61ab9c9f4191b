"""A load test's report in perf_analyzer's words: for machines as a record, for people as lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jouleflow.load.run import Load, read_server, run_load
from jouleflow.load.told import between
from jouleflow.units import format_quantity

PERCENTILES = (50, 90, 95, 99)
NOT_TOLD = "not told by this server"


def load_report(load: Load) -> dict[str, Any]:
    """The client's summary, and what the server counted meanwhile, from before the warm-up on. Where the load has no SLO it is the model's own.

    Raises InputError for a wrong address, model, or server.
    """
    before = read_server(load)
    answers = run_load(load)
    after = read_server(load)
    slo_s = load.slo_s or after.slo_s
    summary = answers.summary(slo_s, load.rows)
    return {"slo_s": slo_s, **summary, **between(before, after, summary["latency_mean_s"])}


def report_lines(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(what, how much) for people."""

    def quantity(value: float | None, unit: str) -> str:
        return "none" if value is None else format_quantity(value, unit)

    def percentiles(name: str) -> str:
        return "  ".join(f"p{p} {quantity(report[f'{name}_p{p}_s'], 's')}" for p in PERCENTILES)

    statuses = ", ".join(
        f"{n} x {status if status != '0' else 'connection lost'}" for status, n in report["statuses"].items()
    )
    yield "requests", f"{report['requests']} ({statuses})"
    yield "throughput", f"{report['infer_per_s']:.4g} inferences/s, {report['requests_per_s']:.4g} requests/s"
    within = f"within {format_quantity(report['slo_s'], 's')}" if report["slo_s"] else "no SLO"
    yield (
        "goodput",
        f"{report['goodput_per_s']:.4g} requests/s ({within}); SLO attained by {report['slo_attained_frac']:.2%}",
    )
    yield "latency", f"mean {quantity(report['latency_mean_s'], 's')}  {percentiles('latency')}"
    if report["rejection_p50_s"] is not None:
        yield "rejection", percentiles("rejection")
    server, energy = report["server"], report["energy"]
    if server is None:
        yield "of it", NOT_TOLD
    else:
        yield (
            "of it",
            (
                f"queue {quantity(server['queue_mean_s'], 's')}, compute {quantity(server['compute_mean_s'], 's')}, "
                f"network and client {quantity(server['network_and_client_mean_s'], 's')} (means)"
            ),
        )
        if server["rows_per_batch"] is not None:
            yield "batches", f"{server['rows_per_batch']:.3g} rows"
        if server["ends"]:
            yield "ended", ", ".join(f"{n} {end}" for end, n in server["ends"].items() if n)
    if energy is None:
        yield "energy", NOT_TOLD
    else:
        yield (
            "energy",
            (
                f"{quantity(energy['j_per_request'], 'J')}/request, {quantity(energy['j_per_inference'], 'J')}/inference, "
                f"{format_quantity(energy['energy_j'], 'J')} in all ({energy['provenance']}: {energy['source']})"
            ),
        )
