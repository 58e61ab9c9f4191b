"""The protocol over gRPC, on the same server. Python's gRPC costs some 0.4 ms a request: HTTP with binary tensors is the fast way."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from time import monotonic
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from jouleflow.errors import InputError
from jouleflow.policy.job import End, Job, Result
from jouleflow.runtime.tensors import NUMPY, encode_strings
from jouleflow.serve import describe
from jouleflow.serve.access import Access
from jouleflow.serve.arrivals import Arrivals
from jouleflow.serve.control import check_load_parameters, check_unload_parameters
from jouleflow.serve.fields import MAX_ELEMENTS, MAX_NAME, MAX_PRIORITY, MAX_RANK, MAX_TENSORS, MAX_TIMEOUT_US
from jouleflow.serve.limits import Limits
from jouleflow.serve.oip import Ask, Given, Wanted
from jouleflow.serve.proto import SERVICE, message, methods
from jouleflow.serve.request_error import NotOffered, RequestError
from jouleflow.serve.served import ServedModel
from jouleflow.serve.server import Server
from jouleflow.serve.shared_memory import Extent, Span
from jouleflow.serve.tensor_data import check_shape, check_size, check_strings

QUIET_S, LINGER_S = 0.1, 2.0  # when stopping: until no call has come for so long, and at most so long
LARGEST_OPTION = (1 << 31) - 1  # that gRPC can be told
LEAST_S = 1e-6  # a deadline that has passed is one too
MAX_VALUES = 1 << 20  # integers or strings that are not sent raw: each is a Python object for a moment
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT, 401: grpc.StatusCode.UNAUTHENTICATED, 403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND, 409: grpc.StatusCode.ALREADY_EXISTS, 413: grpc.StatusCode.RESOURCE_EXHAUSTED, 429: grpc.StatusCode.RESOURCE_EXHAUSTED, 499: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL, 503: grpc.StatusCode.UNAVAILABLE, 504: grpc.StatusCode.DEADLINE_EXCEEDED,
}  # fmt: skip
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


class Rpc:
    """The calls of the service. admin: whether this listener may load and unload models."""

    def __init__(self, server: Server, admin: bool = False) -> None:
        self.server, self.admin = server, admin
        self._tasks: set[asyncio.Task[Any]] = set()
        self.n_calls = 0  # that came, of any kind
        self.open = asyncio.Event()  # not set: calls that come wait
        self.open.set()

    async def server_live(self, request: Any, context: Any) -> Any:
        return message("ServerLiveResponse")(live=True)

    async def server_ready(self, request: Any, context: Any) -> Any:
        return message("ServerReadyResponse")(ready=self.server.ready)

    async def model_ready(self, request: Any, context: Any) -> Any:
        return message("ModelReadyResponse")(ready=self.server.find(request.name, request.version).ready)

    async def server_metadata(self, request: Any, context: Any) -> Any:
        return message("ServerMetadataResponse")(**describe.server_metadata(self.server, self.admin))

    async def model_metadata(self, request: Any, context: Any) -> Any:
        return message("ModelMetadataResponse")(
            **describe.model_metadata(self.server.find(request.name, request.version))
        )

    async def model_statistics(self, request: Any, context: Any) -> Any:
        models = [self.server.find(request.name, request.version)] if request.name else self.server.models.values()
        stats = [{k: v for k, v in describe.statistics(m).items() if k != "jouleflow"} for m in models]
        return message("ModelStatisticsResponse")(model_stats=stats)

    async def model_config(self, request: Any, context: Any) -> Any:
        return message("ModelConfigResponse")(
            config=describe.model_config(self.server.find(request.name, request.version))
        )

    async def repository_index(self, request: Any, context: Any) -> Any:
        self._check_control(request)
        return message("RepositoryIndexResponse")(models=describe.index(self.server, request.ready))

    async def repository_model_load(self, request: Any, context: Any) -> Any:
        self._check_control(request)
        check_load_parameters(_plain(request.parameters))
        await self._to_its_end(self.server.load(request.model_name))
        return message("RepositoryModelLoadResponse")()

    async def repository_model_unload(self, request: Any, context: Any) -> Any:
        self._check_control(request)
        check_unload_parameters(_plain(request.parameters))
        self.server.find(request.model_name)
        await self._to_its_end(self.server.unload(request.model_name))
        return message("RepositoryModelUnloadResponse")()

    def _check_control(self, request: Any) -> None:
        if not self.admin:
            raise NotOffered("model control is on the admin listener only; see --grpc-admin")
        if request.repository_name:
            raise RequestError(400, "repository_name must be empty: there is one repository")

    async def _to_its_end(self, work: Coroutine[Any, Any, Any]) -> None:
        """Does it, also when who asked for it goes away meanwhile: half a load would leave a process behind."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)

    async def system_shared_memory_status(self, request: Any, context: Any) -> Any:
        found = {r["name"]: r for r in self.server.regions.status(request.name)}
        return message("SystemSharedMemoryStatusResponse")(regions=found)

    async def system_shared_memory_register(self, request: Any, context: Any) -> Any:
        self.server.regions.register(request.name, request.key, request.offset, request.byte_size)
        return message("SystemSharedMemoryRegisterResponse")()

    async def system_shared_memory_unregister(self, request: Any, context: Any) -> Any:
        self.server.regions.unregister(request.name)
        return message("SystemSharedMemoryUnregisterResponse")()

    async def model_infer(self, request: Any, context: Any) -> Any:
        served = self.server.find(request.model_name, request.model_version)
        remaining_s = context.time_remaining()
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Result] = loop.create_future()
        job = served.job(ask_of(request, served, remaining_s), monotonic(), lambda r: _set(answered, r))
        request_id = request.id
        del request  # while it waits its tensors are needed once only
        takes = served.ready and not self.server.draining
        self.server.offer(served, job)
        try:
            result = await answered
        except asyncio.CancelledError:
            _gone(job)
            raise
        if result.end is not End.COMPLETED:
            too_many = takes and result.end is End.REJECTED  # whatever HTTP says of it
            raise RequestError(429 if too_many else result.status, result.message, result.retry_s)
        spec = served.spec
        return message("ModelInferResponse")(
            model_name=spec.name,
            model_version=spec.version,
            id=request_id,
            outputs=[
                {"name": want.name, "datatype": datatype, "shape": shape, "parameters": _extent_parameters(want.extent)}
                for want, (datatype, shape, _) in zip(job.payload.header.wanted, result.values, strict=True)
            ],
            raw_output_contents=[raw for _, _, raw in result.values],
        )


def _extent_parameters(extent: Extent | None) -> dict[str, dict[str, str | int]]:
    """What an answer says of an output in shared memory."""
    if extent is None:
        return {}
    return {k: {"string_param" if isinstance(v, str) else "int64_param": v} for k, v in extent.parameters.items()}


def _set(answered: asyncio.Future[Result], result: Result) -> None:
    if not answered.done():
        answered.set_result(result)


def _gone(job: Job) -> None:
    job.cancelled = True


def ask_of(request: Any, served: ServedModel, remaining_s: float | None) -> Ask:
    """The request in a message.

    Raises RequestError naming the field and what was expected.
    """
    decoder, given = served.decoder, request.inputs
    raws = request.raw_input_contents
    if len(request.id) > MAX_NAME or len(given) > MAX_TENSORS or len(request.outputs) > MAX_TENSORS:
        raise RequestError(400, f"an id of at most {MAX_NAME} characters and {MAX_TENSORS} tensors are taken")
    extents = [decoder.extent_of(_plain(each.parameters), f"inputs[{k}]") for k, each in enumerate(given)]
    if raws and len(raws) != extents.count(None):
        raise RequestError(
            400, f"{len(raws)} raw_input_contents for {extents.count(None)} inputs outside shared memory"
        )
    inputs: list[Given] = []
    parts: list[bytes | Extent] = []
    raw_of = iter(raws)
    for k, each in enumerate(given):
        where, port = f"inputs[{k}]", decoder.inputs.get(each.name)
        if port is None:
            raise RequestError(
                400, f"{where}.name {each.name!r} is not an input of the model: {sorted(decoder.inputs)}"
            )
        if each.datatype != port.datatype:
            raise RequestError(400, f"{where}.datatype {each.datatype!r}: input {each.name!r} is {port.datatype}")
        shape = tuple(each.shape)
        if len(shape) > MAX_RANK or any(s < 0 for s in shape) or _product(shape) > MAX_ELEMENTS:
            raise RequestError(400, f"{where}.shape must be at most {MAX_RANK} sides >= 0 and {MAX_ELEMENTS} elements")
        check_shape(port, shape, where)
        extent = extents[k]
        if extent is not None:
            if each.HasField("contents"):
                raise RequestError(400, f"{where} is in shared memory and in the request: give one of them")
            check_size(each.datatype, shape, extent.size_bytes, where)
            inputs.append(Given(each.name, each.datatype, shape, extent.size_bytes, extent))
            parts.append(extent)
            continue
        raw = next(raw_of) if raws else _contents(each, shape, where)
        check_size(each.datatype, shape, len(raw), where)
        if each.datatype == "BYTES":
            check_strings(raw, shape, each.name)
        inputs.append(Given(each.name, each.datatype, shape, len(raw)))
        parts.append(raw)
    names = [o.name for o in request.outputs] or decoder.outputs
    unknown = sorted(set(names) - set(decoder.outputs))
    if unknown or len(set(names)) != len(names):
        raise RequestError(400, f"outputs {names}: the model has {decoder.outputs}, each at most once")
    for k, output in enumerate(request.outputs):
        if "classification" in output.parameters:
            raise RequestError(400, f"outputs[{k}].parameters.classification is not supported: ask for the scores")
    timeout_s = _whole(request, "timeout", MAX_TIMEOUT_US) * 1e-6
    limits = [timeout_s] if timeout_s else []
    if remaining_s is not None:
        limits.append(max(remaining_s, LEAST_S))
    wanted = tuple(
        Wanted(o.name, True, decoder.extent_of(_plain(o.parameters), f"outputs[{k}]"))
        for k, o in enumerate(request.outputs)
    ) or tuple(Wanted(n, True) for n in names)
    priority = _whole(request, "priority", MAX_PRIORITY)
    header = decoder.header(request.id, tuple(inputs), wanted, min(limits, default=0.0), priority)
    shared = decoder.shared(header) if header.in_shared else None
    sent = [decoder.shared_input(g, p) if isinstance(p, Extent) else p for g, p in zip(inputs, parts, strict=True)]
    data: list[memoryview | bytes | Span] = [sent[k] for k in header.place]
    return Ask(header, data, sum(map(len, data)), shared)


def _plain(parameters: Any) -> dict[str, Any]:
    """Parameters as over HTTP."""
    return {k: getattr(v, v.WhichOneof("parameter_choice") or "string_param") for k, v in parameters.items()}


def _product(shape: tuple[int, ...]) -> int:
    product = 1
    for side in shape:
        product *= side
    return product


def _whole(request: Any, name: str, most: int) -> int:
    if name not in request.parameters:
        return 0
    parameter = request.parameters[name]
    value = int(parameter.int64_param or parameter.uint64_param)
    if not 0 <= value <= most:
        raise RequestError(400, f"parameters.{name} {value} must be 0 to {most}")
    return value


def _contents(tensor: Any, shape: tuple[int, ...], where: str) -> bytes:
    """The bytes of a tensor that is not among the raw ones. What would keep the loop long is refused before it is looked at."""
    field, contents = CONTENTS.get(tensor.datatype), tensor.contents
    if field is None:
        raise RequestError(400, f"{where}: {tensor.datatype} must be sent in raw_input_contents")
    given = [each.name for each, _ in contents.ListFields()]
    if given not in ([], [field]):
        raise RequestError(400, f"{where}.contents has {given}: {tensor.datatype} is sent in {field}")
    values, n_values = getattr(contents, field), _product(shape)
    if len(values) != n_values:
        raise RequestError(400, f"{where}.contents has {len(values)} values, but {list(shape)} is {n_values}")
    if tensor.datatype in ("FP32", "FP64", "BOOL"):
        return _as_sent(contents)
    if n_values > MAX_VALUES:
        raise RequestError(
            400, f"{where}: more than {MAX_VALUES} of {tensor.datatype} must be sent in raw_input_contents"
        )
    if tensor.datatype == "BYTES":
        array = np.empty(n_values, np.object_)
        array[:] = list(values)
        return encode_strings(array)
    numbers = np.fromiter(values, np.uint64 if field == "uint64_contents" else np.int64, n_values)
    dtype = NUMPY[tensor.datatype]
    info = np.iinfo(dtype.str)
    if numbers.size and (numbers.min() < info.min or numbers.max() > info.max):
        raise RequestError(400, f"{where}.contents has values outside {tensor.datatype}")
    return numbers.astype(dtype).tobytes()


def _as_sent(contents: Any) -> bytes:
    """Numbers of a fixed size, or truths, as they are in a message: a byte of field, their length in bytes by sevens of bits, and
    themselves, which is how the tensor has them too. By way of Python's numbers a message could take seconds."""
    contents.DiscardUnknownFields()
    sent: bytes = contents.SerializeToString()
    at = 1
    while at < len(sent) and sent[at] & 0x80:
        at += 1
    return sent[at + 1 :]


def _retry(retry_s: float) -> tuple[tuple[str, str], ...]:
    """When to ask again, in the words of gRPC: its clients' retries wait for so long."""
    return (("grpc-retry-pushback-ms", str(math.ceil(retry_s * 1e3))),) if retry_s > 0 else ()


def _decoded(asked: Any, raw: bytes | None) -> Any:
    if raw is None:
        raise RequestError(400, "there is no message")
    try:
        return asked.FromString(raw)
    except DecodeError as error:
        raise RequestError(400, f"the message is no {asked.DESCRIPTOR.name}") from error


Call = Callable[[Any, Any], Awaitable[Any]]


async def _end(context: Any, code: Any, why: str, more: tuple[tuple[str, str], ...] = ()) -> None:
    """Ends a call with a status, unless gRPC has ended it itself: its message was too large once inflated."""
    with suppress(grpc.aio.InternalError):
        await context.abort(code, why, more)


def _guarded(rpc: Rpc, call: Call, asked: Any, access: Access, arrivals: Arrivals) -> Call:
    """The call behind the access check, its errors as statuses. It takes its message itself, as a stream of one: so it is known that one
    is on its way, and nothing is taken from who may not ask."""

    async def run(_: Any, context: Any) -> Any:
        rpc.n_calls += 1
        if not rpc.open.is_set():
            await rpc.open.wait()
        sent = {k: v for k, v in context.invocation_metadata() if isinstance(v, str)}
        if access.token:
            refused = access.refusal("localhost", "", sent.get("authorization", ""))
            if refused is not None:
                await _end(context, CODES[refused[0]], refused[1])
        try:
            return await call(_decoded(asked, await arrivals.message(context)), context)
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
    rpc, arrivals = Rpc(server, admin), Arrivals(limits)
    names = {name: "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_") for name, _, _ in methods()}
    handlers = {
        name: grpc.stream_unary_rpc_method_handler(
            _guarded(rpc, getattr(rpc, names[name]), asked, access, arrivals), None, answer.SerializeToString
        )
        for name, asked, answer in methods()
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
