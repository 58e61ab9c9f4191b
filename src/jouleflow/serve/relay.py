"""The front of a cluster: requests come in over our own HTTP, leave in groups for whichever node takes them, and are sent again when a
node is lost on the way.

A call to another machine costs a hundred times what a small request does, so requests that arrive together go together. Knows
nothing of Ray: `Carry` is all that it needs.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf
from time import monotonic
from typing import Any

import orjson

from jouleflow.serve.access import Gate
from jouleflow.serve.api import LENGTH, MODEL, answer_error
from jouleflow.serve.fields import as_object, parse_object, timeout_s_of
from jouleflow.serve.limits import Limits
from jouleflow.serve.metrics import CONTENT_TYPE, cluster_exposition
from jouleflow.serve.replica import Answers, Wire
from jouleflow.serve.request import JSON_HEADERS, Request
from jouleflow.serve.request_error import RequestError

GATHER_S = 0.002  # that a request waits for others while groups are under way
EAGER_GROUPS = 4  # with fewer under way, a group leaves at the end of the loop's turn
MAX_GROUP, MAX_GROUP_BYTES = 64, 8 << 20
MAX_FLYING = 8192  # requests under way and gathering, over all groups
RETRIES_S = (
    0.0,
    0.1,
    0.5,
    1.0,
    2.0,
)  # waits before a group is sent, and before what a lost node left of it is sent again
ANSWER_S = 60.0  # after which a group is given up
READY_S = 2.0
STATISTICS_S = 5.0
RETRY_AFTER = ((b"retry-after", b"1"),)


class Lost(Exception):
    """The node that a group was sent to has gone, or none could be reached: it may be sent again."""


class Refused(Exception):
    """The nodes have more to do than may wait."""


Carry = Callable[[Sequence[Wire]], AsyncIterator[Answers]]  # raises Lost or Refused
AskAll = Callable[[], Awaitable[list[dict[str, Any]]]]  # `Replica.statistics` of every node


class Relay:
    """Handler of the cluster's listener. slos_s: of the models that have one. n_running: nodes that serve, as was last heard."""

    def __init__(self, carry: Carry, ask_all: AskAll, gate: Gate, limits: Limits, slos_s: Mapping[str, float]) -> None:
        self.carry, self.ask_all, self.gate, self.limits, self.slos_s = carry, ask_all, gate, limits, slos_s
        self.n_running = 0
        self.statuses: Counter[int] = Counter()
        self.n_retried = 0
        self.n_flying = self.n_groups = self.waiting_bytes = 0
        self._gathering: dict[bytes, _Group] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._asked: asyncio.Task[list[dict[str, Any]]] | None = None

    @property
    def idle(self) -> bool:
        return not self.n_flying

    def __call__(self, request: Request) -> None:
        refused = self.gate.refusal(request.headers)
        if refused is not None:
            answer_error(request, *refused)
            return
        path, read = request.path, request.method in (b"GET", b"HEAD")
        if path == "/v2/health/live" and read:
            request.respond(200, ())
        elif path == "/v2/health/ready" and read:
            self._background(self._ready(request))
        elif path == "/v2/models/stats" and read:
            self._background(self._statistics(request))
        elif path == "/metrics" and read:
            self._background(self._metrics(request))
        elif path == "/v2" or path.startswith("/v2/"):
            self._gather(request)
        else:
            answer_error(request, 404, "there is nothing at this address; the live page is not offered on a cluster")

    def _gather(self, request: Request) -> None:
        """Requests for the same address go together, so that none waits for the answer of a slower model."""
        if self.n_flying >= MAX_FLYING or self.waiting_bytes + request.n_body > self.limits.max_waiting_bytes:
            self.statuses[503] += 1
            answer_error(request, 503, "too many requests are under way", RETRY_AFTER)
            return
        self.n_flying += 1
        self.waiting_bytes += request.n_body
        group = self._gathering.get(request.target)
        if group is None:
            group = self._gathering[request.target] = _Group()
            wait_s = 0.0 if self.n_groups < EAGER_GROUPS else GATHER_S
            group.timer = asyncio.get_running_loop().call_later(wait_s, self._depart, request.target)
        group.add(request)
        if group.n_left >= MAX_GROUP or group.size_bytes >= MAX_GROUP_BYTES:
            self._depart(request.target)

    def _depart(self, target: bytes) -> None:
        group = self._gathering.pop(target)
        if group.timer is not None:
            group.timer.cancel()
        self.n_groups += 1
        group.task = asyncio.get_running_loop().create_task(self._deliver(group))
        group.task.add_done_callback(lambda _: self._delivered(group))
        if group.abandoned:
            group.task.cancel()

    async def _deliver(self, group: _Group) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                for k, wait_s in enumerate(RETRIES_S):
                    if k > 0:
                        self._end_late(group, monotonic() + wait_s)
                        if group.abandoned:
                            return
                        self.n_retried += group.n_left
                    await asyncio.sleep(wait_s)
                    with suppress(Lost):
                        await self._once(group)
                        return
        except Refused:
            group.failure = 503, "the queues of all nodes are full"
        except TimeoutError:
            group.failure = 504, f"no answer within {ANSWER_S:g} s"

    def _delivered(self, group: _Group) -> None:
        """Whatever became of the delivery, also when it was called back before it began."""
        self.n_groups -= 1
        status, message = group.failure
        for request in group.left():
            self._give_up(request, status, message)

    def _end_late(self, group: _Group, by_s: float) -> None:
        """Answers those whose deadline is before a moment, the next at which they could be sent."""
        for k, request in enumerate(group.requests):
            if request is not None and self._deadline_s(group, k, request) <= by_s:
                group.answered(k)
                self._give_up(request, 504, "no node answered, and its deadline is too near to ask again")

    def _deadline_s(self, group: _Group, number: int, request: Request) -> float:
        """As the node would have it that a request is sent to; inf when there is none. Few requests lose their node, so that the front
        reads no other's."""
        found = MODEL.fullmatch(request.path)
        slo_s = self.slos_s.get(found[1], 0.0) if found and found[3] == "infer" else 0.0
        limit_s = min(_timeout_s(group.wires[number]) or inf, slo_s or inf)
        return group.arrived_s[number] + limit_s

    def _give_up(self, request: Request, status: int, message: str) -> None:
        self._answered(request, status)
        if request.job is not None and not request.job.cancelled:
            answer_error(request, status, message, RETRY_AFTER if status == 503 else ())

    async def _once(self, group: _Group) -> None:
        numbers = [k for k, request in enumerate(group.requests) if request is not None]
        now_s = monotonic()
        wires = [replace(group.wires[k], waited_s=now_s - group.arrived_s[k]) for k in numbers]
        async for answers in self.carry(wires):
            for at, raw in answers:
                request = group.requests[numbers[at]]
                if request is None:
                    raise Lost
                group.answered(numbers[at])
                self._answered(request, int(raw[9:12]))
                request.respond_with(raw, ())
        if group.n_left:
            raise Lost

    def _answered(self, request: Request, status: int) -> None:
        self.n_flying -= 1
        self.waiting_bytes -= request.n_body
        self.statuses[status] += 1

    async def _ready(self, request: Request) -> None:
        """As the node says that takes it."""
        try:
            async with asyncio.timeout(READY_S):
                async for answers in self.carry([Wire(request.method, request.target, b"", b"")]):
                    request.respond_with(answers[0][1], ())
                    return
        except (Lost, Refused, TimeoutError):
            pass
        request.respond(503, ())

    async def statistics(self) -> list[dict[str, Any]]:
        """Of every node that answers in time; asked once for all who want to know at the same time."""
        if self._asked is None or self._asked.done():
            self._asked = asyncio.ensure_future(self.ask_all())
        try:
            return await asyncio.wait_for(asyncio.shield(self._asked), STATISTICS_S)
        except TimeoutError:
            return []

    async def _statistics(self, request: Request) -> None:
        nodes = await self.statistics()
        stats = [{**model, "node": node["node"]} for node in nodes for model in node["models"]]
        request.respond(200, JSON_HEADERS, orjson.dumps({"model_stats": stats}))

    async def _metrics(self, request: Request) -> None:
        nodes = await self.statistics()
        front = {"retried": self.n_retried, "flying": self.n_flying, "running": self.n_running}
        text = cluster_exposition(front, self.statuses, nodes)
        request.respond(200, ((b"content-type", CONTENT_TYPE.encode()),), text)

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _timeout_s(wire: Wire) -> float:
    """How long the sender of a request will wait; 0 when it does not say, or so that nobody can read it: a node says what is wrong."""
    try:
        header = wire.body[: int(wire.header_bytes)] if wire.header_bytes else wire.body
        return timeout_s_of(as_object(parse_object(header).get("parameters", {}), "parameters"))
    except (RequestError, ValueError):
        return 0.0


class _Group:
    """Requests for one address that travel together. requests[k], which arrived at arrived_s[k], is None once it was answered."""

    def __init__(self) -> None:
        self.requests: list[Request | None] = []
        self.wires: list[Wire] = []
        self.arrived_s: list[float] = []
        self.n_left = self.n_gone = self.size_bytes = 0
        self.timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None
        self.failure = 503, "no node answered"  # what those who are left are told

    @property
    def abandoned(self) -> bool:
        """Whether all who still wait have gone away."""
        return self.n_gone >= self.n_left

    def add(self, request: Request) -> None:
        wire = Wire(request.method, request.target, request.headers.get(LENGTH, b""), bytes(request.body))
        request.job = _Passenger(self)
        self.requests.append(request)
        self.wires.append(wire)
        self.arrived_s.append(monotonic())
        self.n_left += 1
        self.size_bytes += request.n_body

    def left(self) -> list[Request]:
        return [request for request in self.requests if request is not None]

    def answered(self, number: int) -> None:
        request, self.requests[number] = self.requests[number], None
        self.n_left -= 1
        if request is not None and request.job is not None and request.job.cancelled:
            self.n_gone -= 1

    def gone(self) -> None:
        """One who waits has gone away; with the last of them the group is called back."""
        self.n_gone += 1
        if self.abandoned and self.task is not None:
            self.task.cancel()


class _Passenger:
    """What a request became: `cancelled` is set when its sender goes away."""

    def __init__(self, group: _Group) -> None:
        self._group: _Group | None = group

    @property
    def cancelled(self) -> bool:
        return self._group is None

    @cancelled.setter
    def cancelled(self, value: bool) -> None:
        group, self._group = self._group, None
        if value and group is not None:
            group.gone()
