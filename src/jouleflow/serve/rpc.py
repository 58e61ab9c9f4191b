"""The calls of the protocol over gRPC, on the same server as HTTP. Python's gRPC costs some 0.4 ms a request: HTTP with binary tensors
is the fast way.

What messages say belongs to rpc_messages; who may call, and how errors are told, to rpc_listener.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from time import monotonic
from typing import Any

from jouleflow.policy.job import End, Job, Result
from jouleflow.serve import describe
from jouleflow.serve.control import check_load_parameters, check_unload_parameters
from jouleflow.serve.proto import message
from jouleflow.serve.request_error import NotOffered, RequestError
from jouleflow.serve.rpc_messages import answer_of, ask_of, plain
from jouleflow.serve.server import Server


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
        check_load_parameters(plain(request.parameters))
        await self._to_its_end(self.server.load(request.model_name))
        return message("RepositoryModelLoadResponse")()

    async def repository_model_unload(self, request: Any, context: Any) -> Any:
        self._check_control(request)
        check_unload_parameters(plain(request.parameters))
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
        return answer_of(request_id, served.spec, job.payload.header.wanted, result.values)


def _set(answered: asyncio.Future[Result], result: Result) -> None:
    if not answered.done():
        answered.set_result(result)


def _gone(job: Job) -> None:
    job.cancelled = True
