"""The process that runs one model: `python -m jouleflow.runtime.worker`, started by `runtime.process`.

It alone reads the model file, checks it, and gives the bytes to ONNX Runtime, so that a model that is hostile, crashes or
takes too much memory ends this process and nothing else. Several batches run at once, each in a thread of its own on the
one session. Orders and answers are small messages over a socket of each slot; tensors lie in shared regions.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson

from jouleflow.errors import InputError
from jouleflow.graph.onnx_check import read_onnx
from jouleflow.runtime.messages import DONE, FAILED, MAX_MESSAGE_BYTES, TIMES, message_buffer
from jouleflow.runtime.region import Region
from jouleflow.runtime.tensors import NAMES, ONNX, Piece, array_of, encode_strings, lay_out

MAX_KNOWN = 64


def _session(path: Path, threads: int) -> tuple[Any, bytes]:
    data = read_onnx(path)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # spinning takes the core of another
    options.log_severity_level = 4
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]), data


def _ports(nodes: Any) -> list[dict[str, Any]]:
    ports = []
    for node in nodes:
        if node.type not in ONNX:
            raise InputError(f"{node.name[:80]!r} is {node.type[:40]}: only plain tensors can be served")
        shape = [side if isinstance(side, int) and side >= 0 else -1 for side in node.shape]
        ports.append({"name": node.name, "datatype": ONNX[node.type], "shape": shape})
    return ports


class Slot:
    """Where one batch lies: its inputs, its outputs, and the socket on which it is ordered. Orders repeat, so what one means
    is kept: the arrays are views into the memory that the next inputs are written to."""

    def __init__(self, inputs: Region, outputs: Region, link: socket.socket) -> None:
        self.inputs, self.outputs, self.link = inputs, outputs, link
        self._orders: dict[bytes, tuple[list[dict[str, Any]], list[str]]] = {}
        self._received = message_buffer()

    def serve(self, session: Any) -> None:
        """Runs orders until the link is closed. Without this thread its batches would wait for ever: if it ends, so does the process."""
        try:
            while n_bytes := self.link.recv_into(self._received):
                os.sched_yield()  # the loop that sent it may be on this CPU, and not yet done
                self.link.send(self.answer(session, bytes(self._received[:n_bytes])))
        finally:
            os._exit(1)

    def answer(self, session: Any, raw: bytes) -> bytes:
        """The answer to an order; an error is an answer too."""
        try:
            order = self._orders.get(raw)
            if order is None:
                order = self._understood(raw)
                if b'"BYTES"' not in raw:  # strings are copied, and must be read again
                    if len(self._orders) >= MAX_KNOWN:
                        self._orders.clear()
                    self._orders[raw] = order
            parts, names = order
            start, start_core = time.perf_counter(), time.thread_time()
            found = [session.run(names, feeds) for feeds in parts]
            values = found[0] if len(found) == 1 else [np.concatenate(of_one) for of_one in zip(*found, strict=True)]
            run_s, core_s = time.perf_counter() - start, time.thread_time() - start_core
            return DONE + TIMES.pack(run_s, core_s) + self._written(names, values)
        except Exception as error:  # the errors of ONNX Runtime have no base of their own
            return FAILED + f"{type(error).__name__}: {error}"[:500].encode()

    def _understood(self, raw: bytes) -> tuple[list[dict[str, Any]], list[str]]:
        """The inputs of each run of a batch, and the outputs that are asked for."""
        order = orjson.loads(raw)
        pieces, step = [Piece(p[0], p[1], tuple(p[2]), p[3], p[4]) for p in order["inputs"]], order["micro_batch"]
        memory = self.inputs.view(max((p.offset + p.size_bytes for p in pieces), default=0))
        feeds = {p.name: array_of(p, memory) for p in pieces}
        n_rows = pieces[0].shape[0] if step else 0
        if n_rows <= step:
            return [feeds], order["outputs"]
        parts = [{name: a[k : k + step] for name, a in feeds.items()} for k in range(0, n_rows, step)]
        return parts, order["outputs"]

    def _written(self, names: list[str], values: list[Any]) -> bytes:
        """Puts the outputs into their memory; the bytes say what lies where."""
        described, raws = [], []
        for name, value in zip(names, values, strict=True):
            array = np.asarray(value)
            if array.dtype == np.object_ or array.dtype.kind in "US":
                datatype, raw = "BYTES", memoryview(encode_strings(array.astype(np.object_)))
            elif array.dtype in NAMES:
                datatype, raw = NAMES[array.dtype], np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            else:
                raise ValueError(f"output {name!r} is of type {array.dtype}, which cannot be sent")
            described.append((name, datatype, array.shape, len(raw)))
            raws.append(raw)
        pieces, at = lay_out(described)
        self.outputs.reserve(at)
        memory = self.outputs.view(at)
        for piece, raw in zip(pieces, raws, strict=True):
            memory[piece.offset : piece.offset + piece.size_bytes] = raw
        return orjson.dumps([(p.name, p.datatype, p.shape, p.offset, p.size_bytes) for p in pieces])


def main() -> int:
    """Reads its settings as the first message, answers with the model's ports or an error, then runs orders until the link is
    closed."""
    link = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server decides when to stop
    settings = json.loads(link.recv(MAX_MESSAGE_BYTES))
    if settings["memory_bytes"]:
        _, most = resource.getrlimit(resource.RLIMIT_AS)  # not to be raised: ulimit -v of who started us
        most = settings["memory_bytes"] if most == resource.RLIM_INFINITY else min(settings["memory_bytes"], most)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")  # when memory runs out, a model goes and not the server
    slots = [Slot(Region(a), Region(b), socket.socket(fileno=c)) for a, b, c in settings["slots"]]
    path = Path(settings["path"])
    try:
        session, data = _session(path, settings["threads"])
        ports = {"inputs": _ports(session.get_inputs()), "outputs": _ports(session.get_outputs())}
        ready = {**ports, "sha256": hashlib.sha256(data).hexdigest(), "pid": os.getpid()}
    except Exception as error:  # as above
        text = str(error).replace(str(path.parent) + "/", "")
        link.send(json.dumps({"error": f"{text}"[:2000] or type(error).__name__}).encode())
        return 1
    threads = [threading.Thread(target=slot.serve, args=(session,), daemon=True) for slot in slots]
    for thread in threads:
        thread.start()
    ready["threads"] = [thread.native_id for thread in threads]
    link.send(json.dumps(ready).encode())
    link.recv(1)  # nothing comes: it ends with the server
    return 0


if __name__ == "__main__":
    os._exit(main())
