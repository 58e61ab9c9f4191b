"""The Open Inference Protocol's messages, JSON with optional binary tensors: from a body to tensors, and back.

Bodies are untrusted: every field is checked against the model before a byte is copied, and what is wrong is named. The binary
tensors of a request are views into its body; those in shared memory stay there until their batch starts.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf, prod
from typing import Any

import numpy as np
import orjson

from jouleflow.runtime.tensors import NUMPY, Port, decode_strings
from jouleflow.serve.fields import (
    as_flag,
    as_object,
    as_shape,
    as_tensors,
    as_text,
    parse_object,
    priority_of,
    timeout_s_of,
)
from jouleflow.serve.large_json import Values, large_data, parse_large
from jouleflow.serve.limits import Limits
from jouleflow.serve.request_error import RequestError
from jouleflow.serve.shared_memory import REGION, ClientRegions, Extent, Shared, Span, extent_of
from jouleflow.serve.tensor_data import check_shape, check_size, check_strings, json_data

MAX_HEADER_BYTES = 256 << 10  # of the JSON before binary tensors, or beside the values in it
LARGE_JSON_BYTES = 64 << 10  # reading more at once would keep the loop for longer than some milliseconds
MAX_VALUE_BYTES = 64  # of JSON: 24 of a number, the rest for who indents it
CACHED_HEADERS, CACHED_HEADER_BYTES = 256, 1024


@dataclass(frozen=True, slots=True)
class Given:
    """An input as described: size_bytes in the binary part of the body, or its data, which were in the JSON, or are an extent of
    shared memory."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    size_bytes: int
    data: bytes | bytearray | Extent | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """An output that is asked for, and whether as binary. extent: in shared memory instead."""

    name: str
    binary: bool
    extent: Extent | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """A request was told that it would be too late, and so would each be that looks the same and comes before until_s, unless a batch
    ends or the queue changes before. n_changes: of those, until then."""

    n_changes: int
    until_s: float


@dataclass(slots=True)
class Header:
    """All of a request but its tensors' bytes; clients send the same one again and again. kind: the shapes of the model's
    inputs without rows. timeout_s: how long the sender will wait; 0 when it did not say. answers: heads of answers by the
    shapes in them, kept for the next request that looks the same. shared_bytes: of inputs in shared memory. refused: when such a
    request was told last that it would be too late."""

    id: str
    given: tuple[Given, ...]
    wanted: tuple[Wanted, ...]
    timeout_s: float
    priority: int
    n_rows: int
    kind: tuple[tuple[int, ...], ...]
    place: tuple[int, ...]  # per input of the model: which of `given` it is
    n_binary: int
    shared_bytes: int
    in_shared: bool  # whether an input or output is in shared memory
    answers: dict[tuple[tuple[int, ...], ...], bytes] = field(default_factory=dict)
    refused: Refused | None = None


@dataclass(slots=True)
class Ask:
    """A request to infer: its header, and the bytes of the model's inputs in the model's order. shared: when some of it is in
    shared memory."""

    header: Header
    data: list[memoryview | bytes | Span]
    size_bytes: int
    shared: Shared | None = None


class Decoder:
    """Decodes the requests for one model. batchable: whether first sides are rows, of which a request has at most max_rows."""

    def __init__(
        self,
        inputs: Sequence[Port],
        outputs: Sequence[Port],
        batchable: bool,
        max_rows: int,
        regions: ClientRegions | None = None,
    ) -> None:
        self.regions = regions or ClientRegions(Limits(), on=False)
        self.inputs = {p.name: p for p in inputs}
        self.outputs = [p.name for p in outputs]
        self.batchable, self.max_rows = batchable, max_rows
        sides = [(max_rows, *p.shape[1:]) if batchable else p.shape for p in inputs]
        bounded = all(p.datatype != "BYTES" and -1 not in shape for p, shape in zip(inputs, sides, strict=True))
        self.max_json_bytes = MAX_HEADER_BYTES + MAX_VALUE_BYTES * sum(map(prod, sides)) if bounded else inf
        self._headers: OrderedDict[bytes, Header] = OrderedDict()

    def header_of(self, body: memoryview, header_bytes: int | None) -> Header:
        """The header of the request in a body. header_bytes: of the JSON when binary tensors follow it, None when all is JSON.

        Raises RequestError naming the field and what was expected.
        """
        if header_bytes is not None and header_bytes > min(len(body), MAX_HEADER_BYTES):
            raise RequestError(
                400, f"Inference-Header-Content-Length {header_bytes} exceeds the body or {MAX_HEADER_BYTES}"
            )
        raw = bytes(body[:header_bytes])
        header = self._headers.get(raw)
        if header is None:
            header = self._header_of(parse_object(raw))
            if len(raw) <= CACHED_HEADER_BYTES and not any(isinstance(g.data, bytes) for g in header.given):
                self._headers[raw] = header
                if len(self._headers) > CACHED_HEADERS:
                    self._headers.popitem(last=False)
        return header

    async def header_of_large(self, body: memoryview) -> Header:
        """The header of a request that is all JSON, read a slice at a time with a turn of the loop after each.

        Raises RequestError as `header_of`, and before anything is read when no request for the model could be so long.
        """
        if len(body) > self.max_json_bytes:
            raise RequestError(
                413, f"{len(body)} bytes of JSON: {self.max_rows} rows of the model's inputs take {self.max_json_bytes} at most"
            )  # fmt: skip
        asked = await parse_large(body, MAX_HEADER_BYTES)
        header = self._header_of(asked)
        given = []
        for k, each in enumerate(header.given):
            values = asked["inputs"][k].get("data")
            if isinstance(values, Values):
                data = await large_data(body, values, each.datatype, each.shape, f"inputs[{k}].data")
                each = replace(each, size_bytes=len(data), data=data)
            given.append(each)
        header.given = tuple(given)
        return header

    def ask(self, header: Header, body: memoryview, header_bytes: int | None) -> Ask:
        """The request in a body of that header. header_bytes: as `header_of`.

        Raises RequestError.
        """
        if header_bytes is None:
            header_bytes = len(body)
        if header_bytes + header.n_binary != len(body):
            raise RequestError(
                400,
                f"the body has {len(body) - header_bytes} bytes of binary tensors, their binary_data_size say {header.n_binary}",
            )
        shared = self.shared(header) if header.in_shared else None
        at = header_bytes
        sent: list[memoryview | bytes | Span] = []
        for given in header.given:
            if given.data is None:
                part = body[at : at + given.size_bytes]
                sent.append(part)
                at += given.size_bytes
                if given.datatype == "BYTES":
                    check_strings(part, given.shape, given.name)
            elif isinstance(given.data, Extent):
                sent.append(self.shared_input(given, given.data))
            else:
                sent.append(memoryview(given.data))
        if len(sent) == 1:
            return Ask(header, sent, len(sent[0]), shared)
        data = [sent[k] for k in header.place]
        return Ask(header, data, sum(map(len, data)), shared)

    def shared_input(self, given: Given, extent: Extent) -> Span | bytes:
        """An input in shared memory. Strings are read at once: what was checked must be what is run.

        Raises RequestError.
        """
        span = self.regions.source(extent)
        if given.datatype != "BYTES":
            return span
        memory = bytearray(len(span))
        span.read_into(memoryview(memory))
        raw = bytes(memory)
        check_strings(raw, given.shape, given.name)
        return raw

    def shared(self, header: Header) -> Shared:
        """What a request has in shared memory, its outputs opened to be written.

        Raises RequestError.
        """
        if header.shared_bytes > self.regions.limits.max_body_bytes:
            raise RequestError(
                413,
                f"{header.shared_bytes} bytes of inputs in shared memory: at most {self.regions.limits.max_body_bytes}, as of a body, are taken",
            )
        return Shared({w.name: self.regions.sink(w.extent) for w in header.wanted if w.extent is not None})

    def _header_of(self, asked: dict[str, Any]) -> Header:
        parameters = as_object(asked.get("parameters", {}), "parameters")
        given = tuple(
            self._input(as_object(each, f"inputs[{k}]"), f"inputs[{k}]")
            for k, each in enumerate(as_tensors(asked.get("inputs"), "inputs"))
        )
        return self.header(
            as_text(asked.get("id", ""), "id"), given, self._wanted(asked, parameters), timeout_s_of(parameters), priority_of(parameters)
        )  # fmt: skip

    def header(
        self, request_id: str, given: tuple[Given, ...], wanted: tuple[Wanted, ...], timeout_s: float, priority: int
    ) -> Header:
        """The header of checked parts.

        Raises RequestError when inputs are missing, disagree on their rows, or have too many.
        """
        names = [g.name for g in given]
        if sorted(names) != sorted(self.inputs):
            raise RequestError(400, f"inputs {sorted(names)} given, the model has {sorted(self.inputs)}")
        place = tuple(names.index(name) for name in self.inputs)
        n_rows = 1
        if self.batchable:
            rows = {g.shape[0] for g in given}
            if len(rows) != 1:
                raise RequestError(400, f"inputs disagree on the batch size: {sorted(rows)}")
            n_rows = rows.pop()
            if n_rows > self.max_rows:
                raise RequestError(400, f"a batch of {n_rows} rows: at most {self.max_rows} are served, split it")
        kind = tuple(given[k].shape[1:] if self.batchable else given[k].shape for k in place)
        n_binary = sum(g.size_bytes for g in given if g.data is None)
        in_shared = [g.size_bytes for g in given if isinstance(g.data, Extent)]
        return Header(
            request_id, given, wanted, timeout_s, priority, n_rows, kind, place, n_binary, sum(in_shared),
            bool(in_shared) or any(w.extent is not None for w in wanted),
        )  # fmt: skip

    def _wanted(self, asked: dict[str, Any], parameters: dict[str, Any]) -> tuple[Wanted, ...]:
        binary = as_flag(parameters.get("binary_data_output", False), "parameters.binary_data_output")
        if asked.get("outputs") in (None, []):
            return tuple(Wanted(name, binary) for name in self.outputs)
        wanted = []
        for k, each in enumerate(as_tensors(asked["outputs"], "outputs")):
            where = f"outputs[{k}]"
            spec = as_object(each, where)
            name = as_text(spec.get("name"), f"{where}.name")
            if name not in self.outputs:
                raise RequestError(400, f"{where}.name {name!r} is not an output of the model: {self.outputs}")
            own = as_object(spec.get("parameters", {}), f"{where}.parameters")
            if "classification" in own:
                raise RequestError(400, f"{where}.parameters.classification is not supported: ask for the scores")
            as_binary = as_flag(own.get("binary_data", binary), f"{where}.parameters.binary_data")
            wanted.append(Wanted(name, as_binary, self.extent_of(own, where)))
        if len({w.name for w in wanted}) != len(wanted):
            raise RequestError(400, f"outputs name one twice: {[w.name for w in wanted]}")
        return tuple(wanted)

    def _input(self, spec: dict[str, Any], where: str) -> Given:
        name = as_text(spec.get("name"), f"{where}.name")
        port = self.inputs.get(name)
        if port is None:
            raise RequestError(400, f"{where}.name {name!r} is not an input of the model: {sorted(self.inputs)}")
        datatype = as_text(spec.get("datatype"), f"{where}.datatype")
        if datatype != port.datatype:
            raise RequestError(400, f"{where}.datatype {datatype!r}: input {name!r} is {port.datatype}")
        shape = as_shape(spec.get("shape"), f"{where}.shape")
        check_shape(port, shape, where)
        own = as_object(spec.get("parameters", {}), f"{where}.parameters")
        size, extent = own.get("binary_data_size"), self.extent_of(own, where)
        if extent is not None:
            if "data" in spec or size is not None:
                raise RequestError(400, f"{where} is in shared memory and in the request: give one of them")
            check_size(datatype, shape, extent.size_bytes, where)
            return Given(name, datatype, shape, extent.size_bytes, extent)
        if size is None:
            if isinstance(spec.get("data"), Values):
                return Given(name, datatype, shape, 0, b"")  # they are read last, when all else is known to be right
            data = json_data(spec.get("data"), datatype, shape, f"{where}.data")
            return Given(name, datatype, shape, len(data), data)
        if "data" in spec:
            raise RequestError(400, f"{where} has data and binary_data_size: give one of them")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise RequestError(400, f"{where}.parameters.binary_data_size {size!r} must be an integer >= 0")
        check_size(datatype, shape, size, where)
        return Given(name, datatype, shape, size)

    def extent_of(self, parameters: dict[str, Any], where: str) -> Extent | None:
        """Where in shared memory a tensor lies, when it does.

        Raises RequestError.
        """
        if REGION in parameters:
            self.regions.check_on()
        return extent_of(parameters, where) if parameters else None


def encode_answer(
    model: str,
    version: str,
    request_id: str,
    wanted: Sequence[Wanted],
    values: Sequence[tuple[str, tuple[int, ...], bytes]],
) -> tuple[bytes, list[bytes]]:
    """The JSON and the binary tensors after it. values: (type, shape, bytes) of each wanted output."""
    outputs, binary = [], []
    for want, (datatype, shape, raw) in zip(wanted, values, strict=True):
        spec: dict[str, Any] = {"name": want.name, "datatype": datatype, "shape": shape}
        if want.extent is not None:
            spec["parameters"] = want.extent.parameters
        elif want.binary:
            spec["parameters"] = {"binary_data_size": len(raw)}
            binary.append(raw)
        elif datatype == "BYTES":
            spec["data"] = [v.decode(errors="replace") for v in decode_strings(raw, shape).ravel()]
        elif datatype == "FP16":
            spec["data"] = np.frombuffer(raw, np.float16).astype(np.float32)
        else:
            spec["data"] = np.frombuffer(raw, NUMPY[datatype])
        outputs.append(spec)
    answer: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": outputs}
    if request_id:
        answer["id"] = request_id
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), binary
