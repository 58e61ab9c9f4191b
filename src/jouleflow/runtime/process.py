"""A model in a process of its own, seen from the event loop: orders go out, answers come back, death is an event like any."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from jouleflow.errors import ModelError
from jouleflow.runtime.cores import bind
from jouleflow.runtime.messages import FAILED, MAX_MESSAGE_BYTES, OUTPUTS_AT, TIMES, message_buffer
from jouleflow.runtime.region import Region
from jouleflow.runtime.tensors import Piece, Port

MAX_LAYOUTS = 256
DIED = "the process of the model died"
# What Python and its libraries go by. Whatever else the server was given is none of a model's business: tokens, keys of other services.
ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "TZ", "LANG", "VIRTUAL_ENV", "GLIBC_TUNABLES")
ENVIRONMENT_OF = ("LC_", "LD_", "PYTHON", "MALLOC_", "OMP_", "OPENBLAS_", "MKL_", "KMP_")


@dataclass(frozen=True, slots=True)
class Settings:
    """How a model's process is set up. n_slots: batches that may run at once. threads: CPU threads of each.
    memory_bytes: address space that the process may take; 0 is no limit."""

    path: Path
    n_slots: int = 1
    threads: int = 1
    memory_bytes: int = 0
    load_s: float = 120.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of an order. error: why there are no outputs. run_s: inside ONNX Runtime; core_s: CPU time of the thread that
    called it, which is all of it when batches have one thread each."""

    outputs: tuple[Piece, ...] = ()
    run_s: float = 0.0
    core_s: float = 0.0
    error: str = ""


class ModelProcess:
    """One running model. Made by `start`; `on_death` hears once when it ends, however it ends."""

    def __init__(self, settings: Settings, child: subprocess.Popen[bytes], link: socket.socket) -> None:
        self.settings, self._child, self._link = settings, child, link
        self.free: list[int] = []
        self.inputs: tuple[Port, ...] = ()
        self.outputs: tuple[Port, ...] = ()
        self.sha256 = ""
        self.threads: list[int] = []  # that run the batches of each slot, as the system numbers them
        self._cpus: list[int | None] = [None] * settings.n_slots  # that they are bound to
        self.micro_batch = 0  # rows of a batch that are run at once; 0 is all
        self.alive = False
        self.on_death: Callable[[], None] = lambda: None
        self.slots: list[tuple[Region, Region, socket.socket]] = []
        self._waiting: dict[int, Callable[[Answer], None]] = {}
        self._layouts: dict[bytes, tuple[Piece, ...]] = {}  # of outputs, as they repeat
        self._received = message_buffer()

    @property
    def pid(self) -> int:
        return self._child.pid

    @classmethod
    async def start(cls, settings: Settings) -> ModelProcess:
        """The process once its model is loaded.

        Raises ModelError with the reason when it cannot be, or takes longer than settings.load_s.
        """
        with contextlib.ExitStack() as undo:
            try:
                self, setup = cls._spawned(settings, undo)
            except OSError as error:
                raise ModelError(f"{settings.path.name}: its process cannot be started: {error.strerror}") from error
            undo.pop_all()
        ours = self._link
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_sendall(ours, json.dumps(setup).encode())
            raw = await asyncio.wait_for(loop.sock_recv(ours, MAX_MESSAGE_BYTES), settings.load_s)
            ready: dict[str, Any] = json.loads(raw) if raw else {"error": "its process died while it loaded"}
        except TimeoutError:
            ready = {"error": f"it did not load within {settings.load_s:g} s"}
        except OSError as error:
            ready = {"error": f"its process could not be reached ({error})"}
        except asyncio.CancelledError:
            self.kill()
            raise
        if "error" in ready:
            self.kill()
            raise ModelError(
                f"{settings.path.name}: {ready['error']}{_of_memory(ready['error'], settings.memory_bytes)}"
            )
        self.inputs, self.outputs = _ports(ready["inputs"]), _ports(ready["outputs"])
        self.sha256, self.threads = ready["sha256"], ready["threads"]
        self.free, self.alive = list(range(settings.n_slots)), True
        loop.add_reader(ours, self._died)  # nothing is sent on it: it can only end
        for slot, (_, _, link) in enumerate(self.slots):
            loop.add_reader(link, self._readable, slot)
        return self

    @classmethod
    def _spawned(cls, settings: Settings, undo: contextlib.ExitStack) -> tuple[ModelProcess, dict[str, Any]]:
        """The process, and the message that sets it up. undo: closes what was opened, should more fail."""
        with contextlib.ExitStack() as theirs_end:

            def pair() -> tuple[socket.socket, int]:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                undo.callback(ours.close)
                theirs_end.callback(theirs.close)
                ours.setblocking(False)
                return ours, theirs.fileno()

            def region(name: str) -> Region:
                made = Region.create(1, name)
                undo.callback(made.close)
                return made

            link, their_fd = pair()
            slots, their_slots = [], []
            for _ in range(settings.n_slots):
                inputs, outputs, (slot_link, slot_fd) = region("in"), region("out"), pair()
                slots.append((inputs, outputs, slot_link))
                their_slots.append([inputs.fd, outputs.fd, slot_fd])
            command = [sys.executable, "-m", "jouleflow.runtime.worker", str(their_fd)]
            fds = [their_fd, *(fd for each in their_slots for fd in each)]
            child = subprocess.Popen(
                command, pass_fds=fds, stdin=subprocess.DEVNULL, env=_environment(os.environ, settings.threads)
            )
        self = cls(settings, child, link)
        self.slots = slots
        setup = {
            "path": str(settings.path), "threads": settings.threads, "memory_bytes": settings.memory_bytes,
            "slots": their_slots,
        }  # fmt: skip
        return self, setup

    def place(self, slot: int, size_bytes: int) -> memoryview:
        """Memory for the inputs of a batch."""
        region = self.slots[slot][0]
        region.reserve(size_bytes)
        return region.view(size_bytes)

    def result(self, slot: int, size_bytes: int) -> memoryview:
        """Memory with the outputs of a batch, until the slot is given back to `free`."""
        return self.slots[slot][1].view(size_bytes)

    def keep_on(self, slot: int, cpu: int | None) -> None:
        """Has the batches of a slot run on that CPU from now on, or anywhere."""
        if self._cpus[slot] != cpu:
            self._cpus[slot] = cpu
            bind(self.threads[slot], cpu)

    def run(self, slot: int, order: bytes, done: Callable[[Answer], None]) -> None:
        """Starts a batch whose inputs are in place; `done` hears once, also when the process dies. order: of `messages.order_of`."""
        self._waiting[slot] = done
        try:
            self.slots[slot][2].send(order)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                self._waiting.pop(slot)(
                    Answer(error=f"an order of {len(order)} bytes cannot be sent: ask for fewer outputs")
                )
            else:
                self._died()

    def _readable(self, slot: int) -> None:
        try:
            n_bytes = self.slots[slot][2].recv_into(self._received)
        except BlockingIOError:
            return
        except OSError:
            n_bytes = 0
        if not n_bytes:
            self._died()
            return
        try:
            answer = self._understood(bytes(self._received[:n_bytes]))
            done = self._waiting.pop(slot)
        except (ValueError, TypeError, LookupError, struct.error):
            self.kill("the process of the model answered what it was not asked")
            return
        done(answer)

    def _understood(self, raw: bytes) -> Answer:
        if raw[:1] == FAILED:
            return Answer(error=raw[1:].decode(errors="replace"))
        layout = raw[OUTPUTS_AT:]
        pieces = self._layouts.get(layout)
        if pieces is None:
            pieces = tuple(Piece(p[0], p[1], tuple(p[2]), p[3], p[4]) for p in orjson.loads(layout))
            if len(self._layouts) >= MAX_LAYOUTS:
                self._layouts.clear()
            self._layouts[layout] = pieces
        return Answer(pieces, *TIMES.unpack_from(raw, 1))

    def _died(self, why: str = DIED) -> None:
        if not self.alive:
            return
        self.alive = False
        self._child.kill()  # its link may be all that ended
        self._reap()
        self._close()
        waiting, self._waiting = self._waiting, {}
        try:
            for done in waiting.values():
                done(Answer(error=why))
        finally:
            self.on_death()  # whoever starts it again must hear of it

    def _reap(self) -> None:
        """Lets the system forget the process, which may take a while to give its memory back."""
        if self._child.poll() is None:
            with contextlib.suppress(RuntimeError):  # no loop runs any more, and soon we do not either
                asyncio.get_running_loop().call_later(0.02, self._reap)

    def _close(self) -> None:
        links = [self._link, *(link for _, _, link in self.slots)]
        for link in links:
            with contextlib.suppress(RuntimeError):  # no loop runs any more
                asyncio.get_running_loop().remove_reader(link)
            link.close()
        for inputs, outputs, _ in self.slots:
            inputs.close()
            outputs.close()

    def kill(self, why: str = DIED) -> None:
        """Ends the process now; what it was running is answered with an error that says why."""
        self._child.kill()
        if self.alive:
            self._died(why)
        elif self._link.fileno() >= 0:
            self._close()
        self._reap()

    async def stop(self) -> None:
        """Lets running batches end, then the process. Nothing is heard of it."""
        self.on_death = lambda: None
        while self.alive and self._waiting:
            await asyncio.sleep(0.005)
        self.kill()
        while self._child.poll() is None:
            await asyncio.sleep(0.005)


def _of_memory(error: str, memory_bytes: int) -> str:
    """What to say besides, of an error that too little memory may be behind."""
    if memory_bytes and any(sign in error for sign in ("MemoryError", "bad_alloc", "died")):
        return f" (it may take {memory_bytes >> 20} MiB: give it more with memory_mb)"
    return ""


def _environment(ours: Mapping[str, str], threads: int) -> dict[str, str]:
    """Of a model's process: no more of ours than it needs, as it may come to be its model's."""
    kept = {k: v for k, v in ours.items() if k in ENVIRONMENT or k.startswith(ENVIRONMENT_OF)}
    return {**kept, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}


def _ports(given: list[dict[str, Any]]) -> tuple[Port, ...]:
    return tuple(Port(p["name"], p["datatype"], tuple(p["shape"])) for p in given)
