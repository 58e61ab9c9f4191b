"""A server in a thread, on ports of its own."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httptools", reason="the serve extra is not installed")

from jouleflow.serve.app import App, AppSettings
from jouleflow.serve.limits import Limits
from jouleflow.serve.server import open_server
from jouleflow.serve.settings import ServerSettings


class Running:
    """A server that runs while the block lasts."""

    def __init__(self, app: App, loop: asyncio.AbstractEventLoop) -> None:
        self.app, self.loop = app, loop
        self.port = app.ports["http"]

    def inside(self, work: Callable[[], Any]) -> Any:
        """The result of a function that runs on the server's loop."""

        async def call() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(30)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | dict[str, Any] | None = None,
        port: int | None = None,
        **headers: str,
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=30)
        raw = json.dumps(body).encode() if isinstance(body, dict) else body
        connection.request(method, path, raw, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, content


@contextmanager
def serving(
    folder: Path,
    server: ServerSettings | None = None,
    settings: AppSettings | None = None,
    limits: Limits | None = None,
) -> Iterator[Running]:
    ready: list[Any] = []
    started = threading.Event()

    async def main() -> None:
        app = App(
            open_server(folder, server or ServerSettings(limits=limits or Limits())),
            settings or AppSettings(http="127.0.0.1:0"),
        )
        try:
            await app.start()
        except BaseException as error:
            ready.append(error)
            started.set()
            return
        stop = asyncio.Event()
        ready.extend((app, asyncio.get_running_loop(), stop))
        started.set()
        await stop.wait()
        await app.stop()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert started.wait(60)
    if len(ready) == 1:
        raise ready[0]
    app, loop, stop = ready
    try:
        yield Running(app, loop)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
