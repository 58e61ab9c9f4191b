"""The models in service and the order in which their batches get the cores. No network in here: HTTP and gRPC stand on it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from time import monotonic
from typing import Any

from jouleflow.errors import InputError, ModelError
from jouleflow.policy.dispatch import Dispatcher, Start
from jouleflow.policy.job import End, Job, Result
from jouleflow.policy.policies import check_policy, policy_maker
from jouleflow.policy.queue import ModelQueue
from jouleflow.runtime.cores import cpus_for
from jouleflow.runtime.process import ModelProcess, Settings
from jouleflow.serve.oip import Header, Refused
from jouleflow.serve.reading import Reading
from jouleflow.serve.repository import ModelSpec, Repository
from jouleflow.serve.served import ServedModel
from jouleflow.serve.settings import ServerSettings
from jouleflow.serve.shared_memory import ClientRegions
from jouleflow.serve.slot_log import SlotLog
from jouleflow.serve.tally import Tally
from jouleflow.serve.warmup import warm_up

RESPAWN_S = (0.1, 0.5, 2.0, 10.0)  # waits before a model that died is started again
WATCH_S = 0.5  # between looks at the batches that run


class Server:
    """Loads models, takes jobs, and starts batches: of all that may start, who goes first by the dispatcher."""

    def __init__(self, repository: Repository, settings: ServerSettings) -> None:
        self.repository, self.settings = repository, settings
        self.n_cores = settings.n_cores or len(os.sched_getaffinity(0))
        self.cpus = cpus_for(self.n_cores)
        self.models: dict[str, ServedModel] = {}
        self.problems: dict[str, str] = {}  # why a model is not there
        self.draining = False
        self.n_deaths: dict[str, int] = {}
        self.tallies: dict[tuple[str, str], Tally] = {}  # of every name and version that was ever in service
        self.reading = Reading(settings.limits.max_waiting_bytes)
        self.regions = ClientRegions(settings.limits, settings.shared_memory)
        self.retiring: list[ServedModel] = []  # replaced or unloaded; what they took is being answered
        self.dispatcher = Dispatcher(self.n_cores)
        self.slot_log = None if settings.slot_log is None else SlotLog(settings.slot_log)
        self._make_policy = policy_maker(settings.policy, settings.policy_net, self.slot_log)
        self._pumping = self._starting = False
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def load_all(self, note: Callable[[str], None] = lambda _: None) -> None:
        """Loads every model of the repository; those that cannot be are named in `problems`."""
        for name in self.repository.names():
            note(f"loading {name}")
            try:
                await self.load(name)
            except InputError as error:
                self.problems[name] = str(error)

    async def load(self, name: str, version: str | None = None) -> ServedModel:
        """Puts a model into service, in place of an older version once it is ready.

        Raises InputError or ModelError when it cannot be; what was served before is still served.
        """
        try:
            spec = self.repository.find(name, version)
        except OSError as error:
            raise InputError(f"model {name!r} cannot be read: {error.strerror}") from error
        served = await self._started(spec)
        old = self.models.get(name)
        self._put(served)
        self.problems.pop(name, None)
        if old is not None:
            self._background(self._retire(old))
        return served

    async def _started(self, spec: ModelSpec) -> ServedModel:
        s = spec.settings
        n_instances = s.instances or max(self.n_cores // s.threads, 1)
        memory_bytes = spec.memory_bytes(n_instances, self.settings.limits.model_memory_frac)
        process = await ModelProcess.start(Settings(spec.path, n_instances, s.threads, memory_bytes))
        try:
            return await self._warmed(spec, process, n_instances)
        except BaseException:
            process.kill()
            raise

    async def _warmed(self, spec: ModelSpec, process: ModelProcess, n_instances: int) -> ServedModel:
        s, run_s = spec.settings, self.settings.limits.run_s
        queue = ModelQueue(
            self._make_policy(spec.delay), s.max_batch, n_instances, spec.slo_s, s.max_queue,
            self.settings.limits.max_waiting_bytes,
        )  # fmt: skip
        tally = self.tallies.setdefault((spec.name, spec.version), Tally())
        served = ServedModel(spec, process, queue, self._batch_ended, tally, self.regions, self.cpus)
        if not served.batchable:
            queue.max_batch = 1
        await warm_up(served, run_s)
        if not process.alive:
            raise ModelError(
                f"{spec.path.name}: its process died in its first batches, or one took more than {run_s:g} s"
            )
        process.on_death = lambda: self._died(served)
        return served

    async def _retire(self, old: ServedModel) -> None:
        """Lets a model that was replaced answer what it took, then ends it."""
        self.retiring.append(old)
        while old.process.alive and (old.queue.n_jobs or old.queue.n_running):
            self._pump_one(old)
            await asyncio.sleep(0.005)
        self.retiring.remove(old)
        await old.process.stop()

    async def unload(self, name: str) -> None:
        """Takes a model out of service; what it took is answered.

        Raises InputError when it is not in service.
        """
        if name not in self.models:
            raise InputError(f"model {name!r} is not loaded")
        del self.dispatcher.queues[name]
        self.dispatcher.n_changes += 1
        await self._retire(self.models.pop(name))

    def find(self, name: str, version: str | None = None) -> ServedModel:
        """The model in service.

        Raises KeyError with a sentence when there is none.
        """
        served = self.models.get(name)
        if served is None:
            raise KeyError(f"no model {name[:80]!r} in service")
        if version not in (None, "", served.spec.version):
            raise KeyError(f"model {name!r} serves version {served.spec.version}, not {str(version)[:20]!r}")
        return served

    def offer(self, served: ServedModel, job: Job, waited_s: float = 0.0) -> None:
        """Takes a job in, or ends it at once. waited_s: elsewhere, since it arrived."""
        if self.draining or not served.ready:
            text = "the server is stopping" if self.draining else "the model is being started again"
            served.queue.counts["accepted"] += 1
            served.queue.end(job, Result(End.REJECTED, message=text, status=503, retry_s=1.0))
            return
        queue = served.queue
        if self.dispatcher.offer(queue, job, job.arrived_s + waited_s):
            if self.dispatcher.n_busy < self.n_cores:  # else the next batch that ends starts another
                self._pump_soon()
        elif queue.n_running and not waited_s:  # something will change, and what looks like it has as much time
            job.payload.header.refused = Refused(self.dispatcher.n_changes + queue.n_changes, queue.late_until_s)

    def refused_again(self, served: ServedModel, header: Header, now_s: float) -> Result | None:
        """What a request is told that looks like one that was just refused, when it would be refused for the same reason; None when
        that is not certain. Under overload most are told so, for half of what it costs to look."""
        refused, queue = header.refused, served.queue
        if (
            refused is None
            or now_s >= refused.until_s
            or refused.n_changes != self.dispatcher.n_changes + queue.n_changes
        ):
            return None
        if self.draining or not served.ready:
            return None
        return queue.refuse(refused.until_s - now_s, now_s)

    def _pump_soon(self) -> None:
        """After the other requests of this turn of the loop have been read."""
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _put(self, served: ServedModel) -> None:
        """A model into service."""
        self.models[served.spec.name] = served
        self.dispatcher.queues[served.spec.name] = served.queue
        self.dispatcher.n_changes += 1

    def _batch_ended(self, start: Start) -> None:
        self.dispatcher.ended(start)
        if not self._starting:  # else it never began, and who is starting batches goes on
            self._start_batches()

    def _pump(self) -> None:
        self._pumping = False
        self._start_batches()

    def _start_batches(self) -> None:
        now_s = monotonic()
        self._starting = True
        try:
            while (start := self.dispatcher.next(now_s)) is not None:
                self.models[start.name].start(start)
        finally:
            self._starting = False
        if self.dispatcher.again_s is not None:
            if self._timer is not None:
                self._timer.cancel()
            wait_s = max(self.dispatcher.again_s - monotonic(), 1e-4)
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._pump_soon)

    def _pump_one(self, served: ServedModel) -> None:
        """For a model that is no longer in service."""
        now_s = monotonic()
        while served.process.free and (head := served.queue.head(now_s)) is not None:
            start = self.dispatcher.start(served.spec.name, served.queue, head, served.queue.max_batch, now_s)
            if start is not None:
                served.start(start)

    def _died(self, served: ServedModel) -> None:
        """Its running batches have been answered with an error; those that wait are too, and it is started again."""
        name, served.queue.ready = served.spec.name, False
        self.n_deaths[name] = self.n_deaths.get(name, 0) + 1
        self.dispatcher.n_changes += 1
        served.queue.fail_all(
            lambda: Result(End.FAILED, message="the process of the model died", status=503, retry_s=1.0)
        )
        if not self.draining and self.models.get(name) is served:
            self._background(self._respawn(served))

    async def _respawn(self, served: ServedModel) -> None:
        name = served.spec.name
        for wait_s in (*RESPAWN_S, *[RESPAWN_S[-1]] * 1000):
            await asyncio.sleep(wait_s)
            if self.models.get(name) is not served or self.draining:
                return
            try:
                fresh = await self._started(served.spec)
            except ModelError as error:
                self.problems[name] = str(error)
                continue
            if self.models.get(name) is not served or self.draining:  # another was loaded meanwhile, or it was unloaded
                await fresh.process.stop()
                return
            fresh.queue.latencies = served.queue.latencies
            self._put(fresh)
            self.problems.pop(name, None)
            return

    async def watch(self) -> None:
        """Ends what would never end, for as long as it runs."""
        while True:
            await asyncio.sleep(WATCH_S)
            self._end_endless()

    def _end_endless(self) -> None:
        """Ends models whose batch runs for longer than it may."""
        run_s = self.settings.limits.run_s
        late_s = monotonic() - run_s
        queues = [start.queue for start in self.dispatcher.running if start.started_s < late_s]
        for served in (*self.models.values(), *self.retiring):
            if served.queue in queues:
                served.process.kill(f"a batch took more than {run_s:g} s")

    def _background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @property
    def ready(self) -> bool:
        """Whether all models of the repository are in service and alive."""
        return (
            not self.draining
            and not self.reading.closed
            and not self.problems
            and all(m.ready for m in self.models.values())
        )

    @property
    def idle(self) -> bool:
        return not self.retiring and not any(m.queue.n_jobs or m.queue.n_running for m in self.models.values())

    async def stop(self) -> None:
        """Takes nothing more, answers what was taken, and ends the models."""
        until_s = monotonic() + self.settings.limits.drain_s
        self.reading.closed = True
        while self.reading.n_bytes and monotonic() < until_s:  # they came before
            await asyncio.sleep(0.005)
        self.draining = True
        while not self.idle and monotonic() < until_s:
            self._pump_soon()
            await asyncio.sleep(0.005)
        for task in self._tasks:
            task.cancel()
        if self.slot_log is not None:
            self.slot_log.close()
        for served in (*self.models.values(), *self.retiring):
            await served.process.stop() if self.idle else served.process.kill()
        self.regions.close()


def open_server(folder: Path, settings: ServerSettings) -> Server:
    """A server of a folder of models, none of them loaded yet.

    Raises InputError for a wrong folder or policy.
    """
    check_policy(settings.policy)
    return Server(Repository(folder), settings)
