"""The server as a program: listeners, signals, and a drain at the end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jouleflow.errors import InputError
from jouleflow.runtime.large_blocks import give_large_blocks_back
from jouleflow.runtime.meter import ASSUMED_CORE_W, open_meter
from jouleflow.runtime.time_slice import ask_for_short_slices
from jouleflow.serve.access import check_loopback, make_access, parse_address
from jouleflow.serve.api import Api
from jouleflow.serve.history import ENDS, History
from jouleflow.serve.http import Connections
from jouleflow.serve.notes import Notes, NotesHandler, hold_standard_descriptors
from jouleflow.serve.server import Server, open_server
from jouleflow.serve.settings import ServerSettings


@dataclass(frozen=True, slots=True)
class AppSettings:
    """Where to listen; grpc empty: not at all. admin, and grpc_admin over gRPC: a listener that may load and unload models; empty: there
    is none. tokens: from the environment, never from the command line. core_w: power of a busy core, where no meter is found."""

    http: str = "127.0.0.1:8000"
    grpc: str = ""
    admin: str = ""
    grpc_admin: str = ""
    allow_hosts: tuple[str, ...] = ()
    token: str = ""
    admin_token: str = ""
    insecure: bool = False
    core_w: float = ASSUMED_CORE_W


class App:
    """A running server and its listeners."""

    def __init__(self, server: Server, settings: AppSettings) -> None:
        self.server, self.settings = server, settings
        self.ports: dict[str, int] = {}
        self._listeners: list[tuple[asyncio.Server, Connections]] = []
        self._sweeps: list[asyncio.Task[None]] = []
        self._rpcs: list[Any] = []
        self.history = History(server, open_meter(self._processes, settings.core_w))

    async def start(self, note: Callable[[str], None] = lambda _: None) -> None:
        """Loads the models, then listens.

        Raises InputError for an address that cannot be used, an admin listener without a token, or shared memory offered to other machines.
        """
        s = self.settings
        for flag, address in (("--admin", s.admin), ("--grpc-admin", s.grpc_admin)):
            if address and not s.admin_token:
                raise InputError(f"{flag} needs a token of its own: set JOULEFLOW_ADMIN_TOKEN")
        if self.server.settings.shared_memory:
            for address in filter(None, (s.http, s.grpc, s.admin, s.grpc_admin)):
                check_loopback(address, "--shared-memory")
        await self.server.load_all(note)
        self._sweeps.append(asyncio.get_running_loop().create_task(self.history.run()))
        self._sweeps.append(asyncio.get_running_loop().create_task(self.server.watch()))
        await self._listen("http", s.http, s.token, admin=False)
        if s.grpc:
            await self._listen_rpc("grpc", s.grpc, s.token, admin=False)
        if s.admin:
            await self._listen("admin", s.admin, s.admin_token, admin=True)
        if s.grpc_admin:
            await self._listen_rpc("grpc_admin", s.grpc_admin, s.admin_token, admin=True)

    def _processes(self) -> list[int]:
        return [os.getpid(), *(m.process.pid for m in self.server.models.values())]

    async def _listen(self, name: str, address: str, token: str, admin: bool) -> None:
        host, port = parse_address(address)
        access = make_access(host, self.settings.allow_hosts, token, self.settings.insecure)
        api = Api(self.server, access, self.history, admin)
        connections = Connections(api, self.server.settings.limits, self.server.reading)
        listener = await listen(connections, host, port)
        self.ports[name] = listener.sockets[0].getsockname()[1]
        self._listeners.append((listener, connections))
        self._sweeps.append(asyncio.get_running_loop().create_task(connections.sweep()))

    async def _listen_rpc(self, name: str, address: str, token: str, admin: bool) -> None:
        from jouleflow.serve.rpc_listener import make_rpc_server

        host, port = parse_address(address)
        access = make_access(host, self.settings.allow_hosts, token, self.settings.insecure)
        rpc = make_rpc_server(self.server, access, self.server.settings.limits, admin)
        self.ports[name] = await rpc.start(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        self._rpcs.append(rpc)

    async def stop(self) -> None:
        """Closes the listeners, answers what was accepted, ends the models."""
        for listener, connections in self._listeners:
            listener.close()
            connections.drain()
        await self.server.stop()
        await asyncio.gather(*(rpc.stop() for rpc in self._rpcs))
        for _, connections in self._listeners:
            await connections.close(self.server.settings.limits.drain_s)
        for sweep in self._sweeps:
            sweep.cancel()


async def listen(connections: Connections, host: str, port: int) -> asyncio.Server:
    """A listener for these connections.

    Raises InputError for an address that cannot be used.
    """
    try:
        return await asyncio.get_running_loop().create_server(connections.protocol, host, port, backlog=1024)
    except OSError as error:
        raise InputError(f"cannot listen at {host}:{port}: {error.strerror or error}") from error


async def serve_until_told(
    folder: Path, server: ServerSettings, settings: AppSettings, note: Callable[[str], None]
) -> None:
    """Serves a folder of models until SIGTERM or SIGINT.

    Raises InputError.
    """
    app = App(open_server(folder, server), settings)
    await app.start(note)
    for name, reason in app.server.problems.items():
        note(f"not served: {name}: {reason}")
    for name in app.server.models:
        note(f"serving {name}")
    note(f"listening: {', '.join(f'{k} on port {p}' for k, p in app.ports.items())}")
    gc.collect()
    gc.freeze()  # what is here now stays; the collector need not look at it again
    gc.set_threshold(50_000, 20, 50)
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: note(_trouble(context)))
    for sign in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sign, told.set)
    await told.wait()
    note("stopping: answering what was accepted")
    await app.stop()
    for (name, version), tally in app.server.tallies.items():
        ended = ", ".join(f"{tally.counts[end]} {end}" for end in ENDS)
        note(f"{name} version {version}: {tally.counts['accepted']} accepted = {ended}")


def _trouble(context: dict[str, Any]) -> str:
    """What the event loop says of an error that nobody caught."""
    error = context.get("exception")
    text = "" if error is None else "".join(traceback.format_exception(error))
    return f"{context.get('message', 'error')}\n{text}"


def run_server(folder: Path, server: ServerSettings, settings: AppSettings) -> None:
    """`serve_until_told` on the fastest event loop there is, with notes on standard error."""
    import uvloop

    give_large_blocks_back()
    hold_standard_descriptors()
    ask_for_short_slices()  # the models' processes would let the loop wait
    notes = Notes()
    logging.basicConfig(handlers=[NotesHandler(notes)], level=logging.WARNING, force=True)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its core would write to standard error itself, and wait for it
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve_until_told(folder, server, settings, notes))
    finally:
        notes.close()
