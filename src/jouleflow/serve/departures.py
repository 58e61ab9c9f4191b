"""Answers of gRPC on their way out. gRPC holds an answer until its client has room for it, for as long as that takes, and has no word for
ending a connection: where a client reads nothing, its socket is ended under it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import grpc

from jouleflow.serve.limits import Limits

SWIFT_S = 0.2  # an answer that takes no longer counts as nothing
PACE_BYTES = 1 << 20  # of an answer that a client must read, each send_s


class Departures:
    """The answers that the clients of a listener do not read."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.n_unsent_bytes = 0
        self._owed_bytes: dict[str, int] = {}  # by connection, of those that were not ended

    async def send(self, context: Any, answer: bytes) -> None:
        """Has it sent. Where its client does not read it in time the connection is ended, and where all clients together leave too much
        unread, the one with the most."""
        sending = asyncio.ensure_future(context.write(answer))
        sending.add_done_callback(_forget)
        done, _ = await asyncio.wait((sending,), timeout=SWIFT_S)
        if not done:
            await self._late(context.peer(), sending, len(answer))
        with suppress(grpc.aio.InternalError):  # its client has gone meanwhile
            sending.result()

    async def _late(self, peer: str, sending: asyncio.Task[None], n_bytes: int) -> None:
        owed = self._owed_bytes
        owed[peer] = owed.get(peer, 0) + n_bytes
        self.n_unsent_bytes += n_bytes
        try:
            if self.n_unsent_bytes > self.limits.max_unsent_bytes:
                self._end(max(owed, key=owed.__getitem__))
            done, _ = await asyncio.wait((sending,), timeout=self.limits.send_s * (1 + n_bytes // PACE_BYTES))
            if not done:
                self._end(peer)
                await asyncio.wait((sending,))
        finally:
            self.n_unsent_bytes -= n_bytes
            if peer in owed:
                owed[peer] -= n_bytes
                if not owed[peer]:
                    del owed[peer]

    def _end(self, peer: str) -> None:
        self._owed_bytes.pop(peer, None)
        end_connection(peer)


def end_connection(peer: str) -> None:
    """Ends the connection of this process with a peer, which is named as gRPC names it: "ipv4:127.0.0.1:40000"."""
    kind, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    if kind not in ("ipv4", "ipv6"):
        return
    wanted = (host.strip("[]"), int(port))
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # no socket, not connected, or closed meanwhile
            connection = socket.socket(fileno=int(number))
            try:
                if (
                    connection.family in (socket.AF_INET, socket.AF_INET6)
                    and _plain(connection.getpeername()) == wanted
                ):
                    connection.shutdown(socket.SHUT_RDWR)
            finally:
                connection.detach()  # it is gRPC's


def _plain(address: tuple[Any, ...]) -> tuple[str, int]:
    """Host and port of an address, without the words for IPv4 in IPv6."""
    return address[0].removeprefix("::ffff:"), address[1]


def _forget(sending: asyncio.Task[None]) -> None:
    """What became of an answer that nobody waits for any more."""
    if not sending.cancelled():
        sending.exception()
