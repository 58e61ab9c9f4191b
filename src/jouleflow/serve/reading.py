"""Bodies that take long to read: one after another, a piece in each turn of the loop, so that everything else goes on.

No thread does it: parsing JSON holds Python's lock, and 64 MiB of it stop every other thread for up to two seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from jouleflow.serve.request import Request
from jouleflow.serve.request_error import RequestError


class Reading:
    """The bodies that are read so, or wait for it: n_bytes of them, at most max_bytes. closed: no more is taken in."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.n_bytes = 0
        self.closed = False
        self.turn = asyncio.Lock()  # first come, first served
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, request: Request, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Has the body of a request read by `work`, which lets the loop turn now and then and sees that the request is answered. It
        ends when its sender goes away.

        Raises RequestError when that is too much.
        """
        n_bytes = request.n_body
        if self.closed and asyncio.current_task() not in self._tasks:  # not what was inflated, and is JSON still
            raise RequestError(503, "the server is stopping")
        if self.n_bytes + n_bytes > self.max_bytes:
            raise RequestError(503, "too many large bodies wait to be read")

        async def when_due() -> None:
            async with self.turn:
                await work()

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self.n_bytes -= n_bytes

        task = asyncio.get_running_loop().create_task(when_due())
        self._tasks.add(task)
        self.n_bytes += n_bytes
        task.add_done_callback(ended)
        request.job = _Reader(task)


class _Reader:
    """What a request is while it is read: `cancelled` is set when its sender goes away."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    @property
    def cancelled(self) -> bool:
        return self._task.cancelled()

    @cancelled.setter
    def cancelled(self, value: bool) -> None:
        if value:
            self._task.cancel()
