"""Messages of gRPC on their way in. gRPC says nothing of a message before it is whole, and holds up to the largest one for each call.

So a message that is not there soon after its call counts as the largest one, and all of those together are bounded, as bodies
over HTTP are. What gRPC itself holds beyond that is what its connections bring in SWIFT_S.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from jouleflow.serve.limits import Limits
from jouleflow.serve.request_error import RequestError

SWIFT_S = 0.2  # a message that takes no longer counts as nothing


class Arrivals:
    """The messages that are being received on a listener."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.n_arriving_bytes = 0  # at most, of messages that are late
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def message(self, context: Any) -> bytes | None:
        """The message of a call, undecoded; None when there is none.

        Raises RequestError when it takes too long, or too many do.
        """
        reading = asyncio.ensure_future(context.read())
        reading.add_done_callback(_forget)
        done, _ = await asyncio.wait((reading,), timeout=SWIFT_S)
        if not done:
            await self._late(reading)
        raw = reading.result()
        return None if raw is grpc.aio.EOF else raw

    def end(self) -> None:
        """Waits for no message that is late: the server is stopping."""
        self._ended.set_result(None)

    async def _late(self, reading: asyncio.Task[Any]) -> None:
        limits, n_bytes = self.limits, self.limits.max_body_bytes
        if self.n_arriving_bytes + n_bytes > limits.max_arriving_bytes:
            raise RequestError(429, "too many large messages are arriving", retry_s=1.0)
        self.n_arriving_bytes += n_bytes
        try:
            await asyncio.wait((reading, self._ended), timeout=limits.body_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.n_arriving_bytes -= n_bytes
        if not reading.done():
            if self._ended.done():
                raise RequestError(503, "the server is stopping", retry_s=1.0)
            raise RequestError(504, f"the message took more than {limits.body_s:g} s to arrive")


def _forget(reading: asyncio.Task[Any]) -> None:
    """What became of a message that nobody waits for any more."""
    if not reading.cancelled():
        reading.exception()
