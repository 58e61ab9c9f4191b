"""OpenMetrics: counters that add up, and gauges of now. accepted = completed + rejected + expired + cancelled + failed + waiting or
running. docs/metrics.md says what each is, and what Triton calls it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.utils import floatToGoString

from jouleflow.serve.history import ENDS, History
from jouleflow.serve.latency import BOUNDS_S, LatencyCounts
from jouleflow.serve.tally import PROVENANCE, WASTES

CONTENT_TYPE = CONTENT_TYPE_LATEST
MODEL = ("model", "version")


def _counter(name: str, says: str, labels: tuple[str, ...] = MODEL, unit: str = "") -> CounterMetricFamily:
    return CounterMetricFamily(f"jouleflow_{name}", says, labels=labels, unit=unit)


def _gauge(name: str, says: str, unit: str = "") -> GaugeMetricFamily:
    return GaugeMetricFamily(f"jouleflow_{name}", says, labels=MODEL, unit=unit)


def _wastes(labels: tuple[str, ...]) -> tuple[CounterMetricFamily, CounterMetricFamily]:
    """Of work that was run for nothing: core seconds, and joules."""
    says, reasons = "of work that was run for nothing.", (*labels, "why")
    core_s = _counter("wasted_core_seconds", f"Core time {says}", reasons, "seconds")
    return core_s, _counter("wasted_joules", f"Energy {says}", (*reasons, "provenance"), "joules")


class _Collector:
    def __init__(self, history: History) -> None:
        self.history = history

    def collect(self) -> Iterator[Metric]:
        server = self.history.server
        accepted = _counter("requests_accepted", "Requests that named this model.")
        ended = _counter("requests", "Requests by how they ended.", (*MODEL, "end"))
        in_time = _counter("requests_in_time", "Completed requests within the SLO, all of them where there is none.")
        rows = _counter("rows", "Rows that were run.")
        batches = _counter("batches", "Batches that were run.")
        queued = _counter("queue_seconds", "Time that completed requests waited.", unit="seconds")
        computed = _counter("compute_seconds", "Time that batches ran.", unit="seconds")
        latency = HistogramMetricFamily(
            "jouleflow_latency_seconds", "Completed requests, from arrival to answer.", labels=MODEL, unit="seconds"
        )
        deaths = _counter("model_deaths", "Times that the process of a model died.", ("model",))
        waiting = _gauge("waiting_requests", "Requests in the queue.")
        running = _gauge("running_batches", "Batches that run now.")
        ready = _gauge("model_ready", "1 when the model answers.")
        slo = _gauge("slo_seconds", "Within what time requests are to be answered; 0: it does not matter.", "seconds")
        energy = _counter("energy_joules", "Energy since the server began.", ("provenance",), "joules")
        wasted, joules = _wastes(MODEL)
        for (name, version), tally in server.tallies.items():
            at, counts, sizes = [name, version], tally.counts, tally.batch_sizes
            accepted.add_metric(at, counts["accepted"])
            for end in ENDS:
                ended.add_metric([*at, end], counts[end])
            rows.add_metric(at, sum(n * b for n, (b, _) in sizes.items()))
            batches.add_metric(at, sum(b for b, _ in sizes.values()))
            queued.add_metric(at, tally.queue_s)
            computed.add_metric(at, sum(s for _, s in sizes.values()))
            for why in WASTES:
                wasted.add_metric([*at, why], tally.wasted_core_s[why])
                joules.add_metric([*at, why, PROVENANCE], tally.wasted_j[why])
        for served in server.models.values():
            at = [served.spec.name, served.spec.version]
            waiting.add_metric(at, served.queue.n_jobs)
            running.add_metric(at, served.queue.n_running)
            ready.add_metric(at, float(served.ready))
            slo.add_metric(at, served.spec.slo_s)
            deaths.add_metric([served.spec.name], server.n_deaths.get(served.spec.name, 0))
            buckets, sum_s = _buckets(served.tally.latencies)
            latency.add_metric(at, buckets, sum_s)
            in_time.add_metric(at, served.tally.latencies.n_in_time)
        energy.add_metric([self.history.meter.provenance], self.history.energy_j())
        yield from (accepted, ended, in_time, rows, batches, queued, computed, wasted, joules, latency, deaths)
        yield from (waiting, running, ready, slo, energy)


class _ClusterCollector:
    def __init__(
        self, front: Mapping[str, int], statuses: Mapping[int, int], nodes: Sequence[Mapping[str, Any]]
    ) -> None:
        self.front, self.statuses, self.nodes = front, statuses, nodes

    def collect(self) -> Iterator[Metric]:
        answers = CounterMetricFamily("jouleflow_cluster_answers", "Answers of the front.", labels=["status"])
        for status, n in sorted(self.statuses.items()):
            answers.add_metric([str(status)], n)
        yield answers
        yield CounterMetricFamily(
            "jouleflow_cluster_retried_requests", "Requests sent again as their node was lost.", self.front["retried"]
        )
        yield GaugeMetricFamily("jouleflow_cluster_flying_requests", "Requests under way.", self.front["flying"])
        yield GaugeMetricFamily("jouleflow_cluster_running_nodes", "Nodes that serve.", self.front["running"])
        yield from self._of_nodes()

    def _of_nodes(self) -> Iterator[Metric]:
        labels = (*MODEL, "node")
        accepted = _counter("requests_accepted", "Requests that named this model.", labels)
        ended = _counter("requests", "Requests by how they ended.", (*labels, "end"))
        waiting = GaugeMetricFamily("jouleflow_waiting_requests", "Requests in the queue.", labels=labels)
        deaths = _counter("model_deaths", "Times that the process of a model died.", ("model", "node"))
        energy = _counter("energy_joules", "Energy since the node began.", ("node", "provenance"), "joules")
        wasted, joules = _wastes(labels)
        for node in self.nodes:
            energy.add_metric([node["node"], node["provenance"]], node["energy_j"])
            for name, n in node["deaths"].items():
                deaths.add_metric([name, node["node"]], n)
            for model in node["models"]:
                at, counts = [model["name"], model["version"], node["node"]], model["jouleflow"]
                accepted.add_metric(at, counts["accepted"])
                waiting.add_metric(at, counts["waiting"])
                for end in ENDS:
                    ended.add_metric([*at, end], counts[end])
                for why in WASTES:
                    wasted.add_metric([*at, why], counts["wasted"]["core_s"][why])
                    joules.add_metric([*at, why, counts["wasted"]["provenance"]], counts["wasted"]["energy_j"][why])
        yield from (accepted, ended, waiting, wasted, joules, deaths, energy)


def cluster_exposition(
    front: Mapping[str, int], statuses: Mapping[int, int], nodes: Sequence[Mapping[str, Any]]
) -> bytes:
    """The same of a cluster: its front (retried, flying, running), and each node's counts; those of a lost node are lost with it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_ClusterCollector(front, statuses, nodes))  # type: ignore[arg-type]
    return bytes(generate_latest(registry))  # type: ignore[no-untyped-call]


def _buckets(latencies: LatencyCounts) -> tuple[list[tuple[str, float]], float]:
    """(bound, requests up to it), and the sum of their latencies."""
    latencies.count()
    up_to = np.cumsum(latencies.n_by_bound).tolist()
    names = [*map(floatToGoString, BOUNDS_S), "+Inf"]
    return list(zip(names, up_to, strict=True)), latencies.sum_s


def exposition(history: History) -> bytes:
    """The text that a Prometheus server scrapes."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(history))  # type: ignore[arg-type]
    return bytes(generate_latest(registry))  # type: ignore[no-untyped-call]
