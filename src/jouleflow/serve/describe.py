"""What the server says about itself and its models, in the protocol's words."""

from __future__ import annotations

from typing import Any

from jouleflow import __version__
from jouleflow.errors import InputError
from jouleflow.policy.batch import BatchPolicy
from jouleflow.policy.bcedge import BcEdge
from jouleflow.serve.served import ServedModel
from jouleflow.serve.server import Server
from jouleflow.serve.tally import PROVENANCE

EXTENSIONS = ["binary_tensor_data", "statistics"]
ADMIN_EXTENSIONS = ["model_repository"]
SHARED_EXTENSIONS = ["system_shared_memory"]
PLATFORM = "onnxruntime_onnx"


def server_metadata(server: Server, admin: bool) -> dict[str, Any]:
    """Name, version and extensions."""
    extensions = EXTENSIONS + (SHARED_EXTENSIONS if server.regions.on else []) + (ADMIN_EXTENSIONS if admin else [])
    return {"name": "jouleflow", "version": __version__, "extensions": extensions}


def model_metadata(served: ServedModel) -> dict[str, Any]:
    """Inputs and outputs of a model."""
    ports = {
        key: [{"name": p.name, "datatype": p.datatype, "shape": list(p.shape)} for p in each]
        for key, each in (("inputs", served.process.inputs), ("outputs", served.process.outputs))
    }
    return {"name": served.spec.name, "versions": [served.spec.version], "platform": PLATFORM, **ports}


def model_config(served: ServedModel) -> dict[str, Any]:
    """The part of Triton's configuration that has a meaning here. max_batch_size 0: requests are not put together."""
    return {
        "name": served.spec.name,
        "platform": PLATFORM,
        "max_batch_size": served.queue.max_batch if served.batchable else 0,
        "instance_group": [{"kind": "KIND_CPU", "count": served.queue.n_instances}],
        "parameters": {
            "slo_ms": {"string_value": f"{served.spec.settings.slo_ms:g}"},
            "fixed_batch": {"string_value": str(served.fixed_rows)},
        },
    }


def _learned(policy: BatchPolicy) -> dict[str, int]:
    """Of a learned policy: how often it decided, and how often the table did in its place."""
    if not isinstance(policy, BcEdge):
        return {}
    return {"learned_decisions": policy.n_decisions, "table_fallbacks": policy.n_fallbacks}


def statistics(served: ServedModel) -> dict[str, Any]:
    """Triton's statistics of a model."""
    counts, queue = served.queue.counts, served.queue
    done, known = counts["completed"], queue.latencies.now
    failed = sum(counts[k] for k in ("rejected", "expired", "cancelled", "failed"))
    nothing = {"count": 0, "ns": 0}

    def spent(count: int, seconds: float) -> dict[str, int]:
        return {"count": int(count), "ns": int(seconds * 1e9)}

    return {
        "name": served.spec.name,
        "version": served.spec.version,
        "last_inference": int(served.tally.last_end_s * 1e3),
        "inference_count": int(sum(rows * n for rows, (n, _) in served.tally.batch_sizes.items())),
        "execution_count": int(sum(n for n, _ in served.tally.batch_sizes.values())),
        "inference_stats": {
            "success": spent(done, served.tally.queue_s + served.tally.compute_s),
            "fail": spent(failed, 0.0),
            "queue": spent(done, served.tally.queue_s),
            "compute_input": nothing,
            "compute_infer": spent(done, served.tally.compute_s),
            "compute_output": nothing,
        },
        "batch_stats": [
            {"batch_size": rows, "compute_input": nothing, "compute_infer": spent(int(n), s), "compute_output": nothing}
            for rows, (n, s) in sorted(served.tally.batch_sizes.items())
        ],
        "jouleflow": {
            **_learned(queue.policy),
            **{k: int(counts[k]) for k in ("accepted", "completed", "rejected", "expired", "cancelled", "failed")},
            "waiting": queue.n_jobs,
            "running_batches": queue.n_running,
            "wasted": {
                "core_s": dict(served.tally.wasted_core_s),
                "energy_j": dict(served.tally.wasted_j),
                "provenance": PROVENANCE,
            },
            "latency_s_by_rows": {}
            if known is None
            else dict(zip(map(str, known.at_rows), known.seconds, strict=True)),
        },
    }


def index(server: Server, ready_only: bool) -> list[dict[str, str]]:
    """Every model of the repository and its state; ready_only: those that answer."""
    rows = []
    for name in sorted({*server.repository.names(), *server.models}):
        served = server.models.get(name)
        if served is not None:
            state = "READY" if served.ready else "UNAVAILABLE"
            rows.append(
                {"name": name, "version": served.spec.version, "state": state, "reason": server.problems.get(name, "")}
            )
            continue
        version, reason = "", server.problems.get(name, "unloaded")
        try:
            version = server.repository.find(name).version
        except InputError as error:
            reason = str(error)
        except OSError as error:
            reason = f"it cannot be read: {error.strerror}"
        rows.append({"name": name, "version": version, "state": "UNAVAILABLE", "reason": reason})
    return [row for row in rows if row["state"] == "READY" or not ready_only]
