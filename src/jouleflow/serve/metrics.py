"""OpenMetrics: counters that add up, and gauges of now. accepted = completed + rejected + expired + cancelled + failed + waiting or
running."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest

from jouleflow.serve.server import Server
from jouleflow.serve.tally import PROVENANCE, WASTES

CONTENT_TYPE = CONTENT_TYPE_LATEST
ENDS = ("completed", "rejected", "expired", "cancelled", "failed")


class _Collector:
    def __init__(self, server: Server) -> None:
        self.server = server

    def collect(self) -> Iterator[Metric]:
        labels = ["model", "version"]
        accepted = CounterMetricFamily("jouleflow_requests_accepted", "Requests that named this model.", labels=labels)
        ended = CounterMetricFamily("jouleflow_requests", "Requests by how they ended.", labels=[*labels, "end"])
        rows = CounterMetricFamily("jouleflow_rows", "Rows that were run.", labels=labels)
        batches = CounterMetricFamily("jouleflow_batches", "Batches that were run.", labels=labels)
        queued = CounterMetricFamily("jouleflow_queue_seconds", "Time that completed requests waited.", labels=labels)
        computed = CounterMetricFamily("jouleflow_compute_seconds", "Time that batches ran.", labels=labels)
        deaths = CounterMetricFamily(
            "jouleflow_model_deaths", "Times that the process of a model died.", labels=["model"]
        )
        waiting = GaugeMetricFamily("jouleflow_waiting_requests", "Requests in the queue.", labels=labels)
        running = GaugeMetricFamily("jouleflow_running_batches", "Batches that run now.", labels=labels)
        ready = GaugeMetricFamily("jouleflow_model_ready", "1 when the model answers.", labels=labels)
        wasted = CounterMetricFamily(
            "jouleflow_wasted_core_seconds", "Core time of work that was run for nothing.", labels=[*labels, "why"]
        )
        joules = CounterMetricFamily(
            "jouleflow_wasted_joules", "Energy of work that was run for nothing.", labels=[*labels, "why", "provenance"]
        )
        for (name, version), tally in self.server.tallies.items():
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
        for served in self.server.models.values():
            at = [served.spec.name, served.spec.version]
            waiting.add_metric(at, served.queue.n_jobs)
            running.add_metric(at, served.queue.n_running)
            ready.add_metric(at, float(served.ready))
        for name, n in self.server.n_deaths.items():
            deaths.add_metric([name], n)
        yield from (accepted, ended, rows, batches, queued, computed, wasted, joules, deaths, waiting, running, ready)


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
        labels = ["model", "version", "node"]
        accepted = CounterMetricFamily("jouleflow_requests_accepted", "Requests that named this model.", labels=labels)
        ended = CounterMetricFamily("jouleflow_requests", "Requests by how they ended.", labels=[*labels, "end"])
        waiting = GaugeMetricFamily("jouleflow_waiting_requests", "Requests in the queue.", labels=labels)
        for node in self.nodes:
            for model in node["models"]:
                at, counts = [model["name"], model["version"], node["node"]], model["jouleflow"]
                accepted.add_metric(at, counts["accepted"])
                waiting.add_metric(at, counts["waiting"])
                for end in ENDS:
                    ended.add_metric([*at, end], counts[end])
        yield from (accepted, ended, waiting)


def cluster_exposition(
    front: Mapping[str, int], statuses: Mapping[int, int], nodes: Sequence[Mapping[str, Any]]
) -> bytes:
    """The same of a cluster: its front (retried, flying, running), and each node's counts; those of a lost node are lost with it."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_ClusterCollector(front, statuses, nodes))  # type: ignore[arg-type]
    return bytes(generate_latest(registry))  # type: ignore[no-untyped-call]


def exposition(server: Server) -> bytes:
    """The text that a Prometheus server scrapes."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(server))  # type: ignore[arg-type]
    return bytes(generate_latest(registry))  # type: ignore[no-untyped-call]
