"""The server on several machines: a Ray Serve deployment with one replica a node, each of them a whole server, and one front.

Ray places the replicas, starts them again elsewhere, and routes groups of requests (power of two choices). Batches, queues and admission
are the replica's, as on one machine (`replica.py`); HTTP and its limits are the front's (`relay.py`).
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from jouleflow.errors import InputError
from jouleflow.policy.policies import check_policy
from jouleflow.runtime.ray_cluster import NICENESS, join
from jouleflow.serve.access import Gate, make_access, parse_address
from jouleflow.serve.app import AppSettings, listen
from jouleflow.serve.http import Connections
from jouleflow.serve.reading import Reading
from jouleflow.serve.relay import MAX_FLYING, Lost, Refused, Relay
from jouleflow.serve.replica import Answers, Replica, Wire, start_replica
from jouleflow.serve.repository import Repository
from jouleflow.serve.settings import ServerSettings
from jouleflow.serve.shipping import pack_models

NAME, DEPLOYMENT = "jouleflow", "models"
WATCH_S = 1.0
HEARD_S = 5.0
HEALTH_PERIOD_S, HEALTH_TIMEOUT_S = 2.0, 10.0
MAX_GROUPS = 1024  # that a replica takes at once: its own queues are what should say no


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """address: of a Ray cluster; "auto": the one on this machine; "local": a new one. n_nodes: replicas, one a node; 0: as many as there are
    nodes now. Nodes that join later replace those that were lost."""

    address: str = "local"
    n_nodes: int = 0


class Models:
    """What Ray Serve makes a replica of: constructor, calls and end are called on the replica's event loop."""

    async def __init__(self, shipped: Sequence[Any], settings: ServerSettings, core_w: float) -> None:  # type: ignore[misc]
        import ray

        node = ray.get_runtime_context().get_node_id()
        self.replica: Replica = await start_replica([await ref for ref in shipped], settings, node, core_w)

    async def answer(self, wires: Sequence[Wire]) -> AsyncIterator[Answers]:
        async for answers in self.replica.answer(wires):
            yield answers

    async def statistics(self) -> dict[str, Any]:
        return self.replica.statistics()

    async def check_health(self) -> None:
        self.replica.check()

    def __del__(self) -> None:
        if hasattr(self, "replica"):
            self.replica.close()


class Cluster:
    """A deployment that runs, as its front sees it. slos_s: of its models that have one.

    Requests and questions to all nodes go by handles, and so by routers, of their own: a router also counts questions as work, can lose
    count while it is still getting to know its nodes, and puts that right only after ten seconds without work for a node. Where somebody
    asks more often, a few clients' requests would all go to the others.
    """

    def __init__(self, serve: Any, inference: Any, questions: Any, slos_s: dict[str, float]) -> None:
        self._serve, self._questions, self.slos_s = serve, questions, slos_s
        self._answer = inference.options(method_name="answer", stream=True)

    async def carry(self, wires: Sequence[Wire]) -> AsyncIterator[Answers]:
        """`relay.Carry`."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import BackPressureError, RayServeException

        response = self._answer.remote(wires)
        ended = False
        try:
            async for answers in response:
                yield answers
            ended = True
        except BackPressureError as error:
            ended = True
            raise Refused from error
        except (RayError, RayServeException) as error:
            ended = True
            raise Lost from error
        finally:
            if not ended:
                response.cancel()

    async def ask_all(self) -> list[dict[str, Any]]:
        """`relay.AskAll`."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        try:
            results = await self._questions.broadcast("statistics").results_async(return_exceptions=True)
        except (RayError, RayServeException):
            return []
        return [r for r in results if isinstance(r, dict)]

    def n_running(self) -> int:
        """Replicas that serve now; 0 when nobody knows."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import RayServeException

        try:
            application = self._serve.status().applications.get(NAME)
        except (RayError, RayServeException):
            return 0
        if application is None or DEPLOYMENT not in application.deployments:
            return 0
        return int(application.deployments[DEPLOYMENT].replica_states.get("RUNNING", 0))


@contextmanager
def deployed(
    folder: Path, server: ServerSettings, core_w: float, cluster: ClusterSettings, note: Callable[[str], None]
) -> Iterator[tuple[Cluster, int]]:
    """The deployment and the number of its nodes, while the block lasts. core_w: power of a busy core, where a node has no meter.

    Raises InputError for a wrong folder, policy or address, or when no model can be served.
    """
    check_policy(server.policy)
    repository = Repository(folder)
    packed, problems = pack_models(repository)
    slos_s = {name: slo_s for name in packed if (slo_s := repository.find(name).slo_s)}
    for name, reason in problems.items():
        note(f"not served: {name}: {reason}")
    if not packed:
        raise InputError(f"{folder} holds no model that can be served")
    ray = join(cluster.address, "--ray-address")
    try:
        serve = _serve_module()
        n_nodes = cluster.n_nodes or sum(1 for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU"))
        note(f"deploying {', '.join(packed)} on {n_nodes} node{'s' if n_nodes != 1 else ''}")
        shipped = [ray.put(files) for files in packed.values()]
        serve.start(proxy_location="Disabled")
        models = serve.deployment(
            name=DEPLOYMENT, num_replicas=n_nodes, max_replicas_per_node=1, max_ongoing_requests=MAX_GROUPS,
            max_queued_requests=MAX_FLYING, ray_actor_options={"num_cpus": server.n_cores or 1},
            health_check_period_s=HEALTH_PERIOD_S, health_check_timeout_s=HEALTH_TIMEOUT_S,
            graceful_shutdown_wait_loop_s=0.1, graceful_shutdown_timeout_s=server.limits.drain_s,
        )(Models)  # fmt: skip
        try:
            try:
                inference = serve.run(models.bind(shipped, server, core_w), name=NAME, route_prefix=None)
            except RuntimeError as error:
                raise InputError(f"the models could not be deployed: {_why(serve, error)}") from error
            questions = serve.handle.DeploymentHandle(DEPLOYMENT, NAME)
            yield Cluster(serve, inference, questions, slos_s), n_nodes
        finally:
            serve.delete(NAME)
    finally:
        ray.shutdown()


def _serve_module() -> Any:
    try:
        from ray import serve
    except ImportError as error:
        raise InputError("serving on a cluster needs Ray Serve: pip install 'jouleflow[cluster]'") from error
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    return serve


def _why(serve: Any, error: Exception) -> str:
    """What a replica that could not start said last."""
    application = serve.status().applications.get(NAME)
    messages = [d.message for d in application.deployments.values()] if application is not None else []
    lines = [line for message in messages for line in message.splitlines() if "Error" in line]
    return lines[-1] if lines else str(error)


async def front_until_told(
    cluster: Cluster, n_nodes: int, server: ServerSettings, settings: AppSettings, note: Callable[[str], None]
) -> None:
    """Serves at settings.http until SIGTERM or SIGINT, then answers what was accepted."""
    host, port = parse_address(settings.http)
    access = make_access(host, settings.allow_hosts, settings.token, settings.insecure)
    relay = Relay(cluster.carry, cluster.ask_all, Gate(access), server.limits, cluster.slos_s)
    relay.n_running = n_nodes
    for node in await _all_heard(relay, n_nodes):
        for name, reason in node["problems"].items():
            note(f"not served on node {node['node'][:8]}: {name}: {reason}")
        if node["niceness"] > 0:
            note(
                f"node {node['node'][:8]} runs the models at niceness {node['niceness']}, so that whatever else its machine does goes "
                f"first: start Ray there with {NICENESS}=0"
            )
    reading = Reading(server.limits.max_waiting_bytes)
    connections = Connections(relay, server.limits, reading)
    listener = await listen(connections, host, port)
    loop = asyncio.get_running_loop()
    sweeps = [loop.create_task(connections.sweep()), loop.create_task(_watch(cluster, relay, n_nodes, note))]
    note(f"listening: http on port {listener.sockets[0].getsockname()[1]}")
    told = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, told.set)
    await told.wait()
    note("stopping: answering what was accepted")
    listener.close()
    connections.drain()
    until_s = monotonic() + server.limits.drain_s
    while (reading.n_bytes or not relay.idle) and monotonic() < until_s:
        await asyncio.sleep(0.01)
    await connections.close(server.limits.drain_s)  # each once its client has read what is due
    for sweep in sweeps:
        sweep.cancel()


async def _all_heard(relay: Relay, n_nodes: int) -> list[dict[str, Any]]:
    """Statistics of all nodes, of which a router hears only some time after it began; of those that it has heard of when that takes long."""
    until_s = monotonic() + HEARD_S
    while len(nodes := await relay.statistics()) < n_nodes and monotonic() < until_s:
        await asyncio.sleep(0.05)
    return nodes


async def _watch(cluster: Cluster, relay: Relay, n_nodes: int, note: Callable[[str], None]) -> None:
    """Says when nodes are lost and when they are back."""
    while True:
        await asyncio.sleep(WATCH_S)
        n_running = await asyncio.to_thread(cluster.n_running)
        if n_running != relay.n_running:
            note(f"{n_running} of {n_nodes} nodes serve")
            relay.n_running = n_running


def run_cluster(
    folder: Path, server: ServerSettings, settings: AppSettings, cluster: ClusterSettings, note: Callable[[str], None]
) -> None:
    """Deploys a folder of models on a Ray cluster and serves it until told to stop.

    Raises InputError.
    """
    import uvloop

    host, _ = parse_address(settings.http)
    make_access(host, settings.allow_hosts, settings.token, settings.insecure)
    if settings.grpc or settings.admin or settings.grpc_admin:
        raise InputError(
            "--grpc, --admin and --grpc-admin are not offered with --ray: HTTP only, and models as the folder has them"
        )
    with (
        deployed(folder, server, settings.core_w, cluster, note) as (running, n_nodes),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(front_until_told(running, n_nodes, server, settings, note))
