"""A gRPC server on an address of its own: who may call, what is taken in, how errors are told, and how it stops."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Any

import grpc

from jouleflow.errors import InputError
from jouleflow.serve.access import Access
from jouleflow.serve.arrivals import Arrivals
from jouleflow.serve.departures import Departures
from jouleflow.serve.limits import Limits
from jouleflow.serve.proto import SERVICE, methods
from jouleflow.serve.request_error import NotOffered, RequestError
from jouleflow.serve.rpc import Rpc
from jouleflow.serve.rpc_messages import decoded
from jouleflow.serve.server import Server

QUIET_S, LINGER_S = 0.1, 2.0  # when stopping: until no call has come for so long, and at most so long
LARGEST_OPTION = (1 << 31) - 1  # that gRPC can be told
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 401: grpc.StatusCode.UNAUTHENTICATED, 403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND, 409: grpc.StatusCode.ALREADY_EXISTS, 413: grpc.StatusCode.RESOURCE_EXHAUSTED, 429: grpc.StatusCode.RESOURCE_EXHAUSTED, 499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL, 503: grpc.StatusCode.UNAVAILABLE, 504: grpc.StatusCode.DEADLINE_EXCEEDED,
}  # fmt: skip
Call = Callable[[Any, Any], Awaitable[Any]]


class RpcListener:
    """A gRPC server on an address of its own."""

    def __init__(self, rpc: Rpc, arrivals: Arrivals, core: Any, drain_s: float) -> None:
        self._rpc, self._arrivals, self._core, self._drain_s = rpc, arrivals, core, drain_s

    async def start(self, address: str) -> int:
        """The port, once it listens there.

        Raises InputError for an address that cannot be used.
        """
        try:
            port = int(self._core.add_insecure_port(address))
        except RuntimeError as error:
            raise InputError(f"cannot listen at {address}: {error}") from error
        await self._core.start()
        return port

    async def stop(self) -> None:
        """Ends it. What gRPC has received and not yet handed over when it is told to stop it cuts off as CANCELLED, and nobody would
        count it. So what comes is kept waiting first, for then its senders send no more; when nothing comes gRPC is told, which tells
        the clients to send no more, and they are answered."""
        self._rpc.open.clear()
        until_s, n_calls = monotonic() + LINGER_S, -1
        while n_calls != self._rpc.n_calls and monotonic() < until_s:
            n_calls = self._rpc.n_calls
            await asyncio.sleep(QUIET_S)
        stopped = asyncio.ensure_future(self._core.stop(self._drain_s))
        await asyncio.sleep(0)  # now it has begun
        self._rpc.open.set()
        self._arrivals.end()
        await stopped


def make_rpc_server(server: Server, access: Access, limits: Limits, admin: bool = False) -> RpcListener:
    """The gRPC server, not yet listening. admin: as of `Rpc`."""
    rpc, arrivals, departures = Rpc(server, admin), Arrivals(limits), Departures(limits)
    names = {name: "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_") for name, _, _ in methods()}
    handlers = {
        name: grpc.stream_stream_rpc_method_handler(
            _guarded(rpc, getattr(rpc, names[name]), asked, access, arrivals, departures)
        )
        for name, asked, _ in methods()
    }
    options = [
        ("grpc.max_receive_message_length", limits.max_body_bytes),
        ("grpc.max_send_message_length", limits.max_body_bytes),
        ("grpc.max_metadata_size", limits.max_header_bytes),
        ("grpc.absolute_max_metadata_size", limits.max_header_bytes),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.max_concurrent_streams", limits.max_streams),
        ("grpc.so_reuseport", 0),
        ("grpc.max_connection_idle_ms", int(limits.idle_s * 1000)),
        ("grpc.server_handshake_timeout_ms", int(limits.header_s * 1000)),
        ("grpc.keepalive_time_ms", int(limits.idle_s * 1000)),  # a peer that vanished is found out
        ("grpc.keepalive_timeout_ms", int(limits.header_s * 1000)),
        ("grpc.http2.min_ping_interval_without_data_ms", int(limits.least_ping_s * 1000)),
        ("grpc.http2.max_ping_strikes", 2),
    ]
    options = [(name, min(value, LARGEST_OPTION)) for name, value in options]
    made = grpc.aio.server(options=options, maximum_concurrent_rpcs=limits.max_calls)
    made.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    return RpcListener(rpc, arrivals, made, limits.drain_s)


def _guarded(rpc: Rpc, call: Call, asked: Any, access: Access, arrivals: Arrivals, departures: Departures) -> Call:
    """The call behind the access check, its errors as statuses. It takes its message itself, as a stream of one, and sends its answer
    so: then it is known that one is on its way, and nothing is taken from who may not ask."""

    async def run(_: Any, context: Any) -> None:
        rpc.n_calls += 1
        if not rpc.open.is_set():
            await rpc.open.wait()
        sent = {k: v for k, v in context.invocation_metadata() if isinstance(v, str)}
        if access.token:
            refused = access.refusal("localhost", "", sent.get("authorization", ""))
            if refused is not None:
                await _end(context, CODES[refused[0]], refused[1])
        try:
            answer = (await call(decoded(asked, await arrivals.message(context)), context)).SerializeToString()
            await departures.send(context, answer)
        except NotOffered as error:
            await _end(context, grpc.StatusCode.UNIMPLEMENTED, str(error))
        except RequestError as error:
            await _end(context, CODES.get(error.status, grpc.StatusCode.INTERNAL), str(error), _retry(error.retry_s))
        except InputError as error:
            await _end(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except KeyError as error:
            await _end(context, grpc.StatusCode.NOT_FOUND, str(error.args[0]))
        except Exception:  # gRPC would tell its sender what it says, folders and all
            logging.getLogger(__name__).exception("a call failed")
            await _end(context, grpc.StatusCode.INTERNAL, "the server could not do it")

    return run


def _retry(retry_s: float) -> tuple[tuple[str, str], ...]:
    """When to ask again, in the words of gRPC: its clients' retries wait for so long."""
    return (("grpc-retry-pushback-ms", str(math.ceil(retry_s * 1e3))),) if retry_s > 0 else ()


async def _end(context: Any, code: Any, why: str, more: tuple[tuple[str, str], ...] = ()) -> None:
    """Ends a call with a status, unless gRPC has ended it itself: its message was too large once inflated."""
    with suppress(grpc.aio.InternalError):
        await context.abort(code, why, more)
