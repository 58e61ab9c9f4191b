"""The cluster's front on replicas in this process, without Ray: groups, nodes that are lost on the way, senders that go away, limits."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from jouleflow.errors import InputError
from jouleflow.load.client import closed_loop, infer_request
from jouleflow.serve.access import Gate, make_access
from jouleflow.serve.app import listen
from jouleflow.serve.http import Connections
from jouleflow.serve.limits import Limits
from jouleflow.serve.reading import Reading
from jouleflow.serve.relay import RETRIES_S, Lost, Refused, Relay
from jouleflow.serve.replica import Answers, Replica, Wire, start_replica
from jouleflow.serve.repository import Repository
from jouleflow.serve.settings import ServerSettings
from jouleflow.serve.shipping import pack_models, unpack_models
from tests.runtime.models import affine, counter

X = {"x": np.arange(4, dtype=np.float32).reshape(1, 4)}
ASK = infer_request("double", X)
CORE_W = 7.0


class Nodes:
    """Carries groups to a replica here; the first n_unreached do not get there, of the next n_lost some are answered."""

    def __init__(self, replica: Replica, n_lost: int = 0, full: bool = False, n_unreached: int = 0) -> None:
        self.replica, self.n_lost, self.full, self.n_unreached = replica, n_lost, full, n_unreached
        self.sizes: list[int] = []
        self.waited_s: list[float] = []  # of the first of each

    async def carry(self, wires: Sequence[Wire]) -> AsyncIterator[Answers]:
        self.sizes.append(len(wires))
        self.waited_s.append(wires[0].waited_s)
        if self.full:
            raise Refused
        if self.n_unreached > 0:
            self.n_unreached -= 1
            raise Lost
        lost = self.n_lost > 0
        self.n_lost -= lost
        async for answers in self.replica.answer(wires):
            yield answers[:-1] if lost else answers
            if lost:
                raise Lost

    async def ask_all(self) -> list[dict[str, Any]]:
        return [self.replica.statistics()]


def relayed(
    folder: Path,
    work: Callable[[Relay, Nodes, int], Awaitable[None]],
    limits: Limits | None = None,
    token: str = "",
    **nodes: Any,
) -> None:
    """Runs work(relay, nodes, port) against a front with one replica behind it."""

    async def main() -> None:
        repository = Repository(folder)
        packed, _ = pack_models(repository)
        replica = await start_replica(
            list(packed.values()), ServerSettings(n_cores=1, limits=limits or Limits()), "here", CORE_W
        )
        behind = Nodes(replica, **nodes)
        relay = Relay(
            behind.carry,
            behind.ask_all,
            Gate(make_access("127.0.0.1", (), token, False)),
            limits or Limits(),
            {name: repository.find(name).slo_s for name in packed},
        )
        listener = await listen(Connections(relay, limits or Limits(), Reading(1 << 20)), "127.0.0.1", 0)
        try:
            await work(relay, behind, listener.sockets[0].getsockname()[1])
        finally:
            listener.close()
            replica.close()
        assert not replica.folder.exists()

    asyncio.run(main())


async def ask(port: int, raw: bytes) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(raw)
    head = await reader.readuntil(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0])
    body = await reader.readexactly(size)
    writer.close()
    return int(head[9:12]), body


async def pipelined(port: int, *raws: bytes) -> list[int]:
    """The statuses of requests that come at once, and so travel together."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"".join(raws))
    statuses = []
    for _ in raws:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r")[0]))
        statuses.append(int(head[9:12]))
    writer.close()
    return statuses


def get(path: str) -> bytes:
    return b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    affine(tmp_path / "double.onnx")
    return tmp_path


def with_slo(folder: Path, slo_ms: int) -> Path:
    affine(folder / "double" / "model.onnx")
    (folder / "double" / "jouleflow.toml").write_text(f"slo_ms = {slo_ms}\n")
    return folder


def test_answers_are_those_of_one_machine_and_travel_in_groups(folder: Path) -> None:
    async def work(relay: Relay, nodes: Nodes, port: int) -> None:
        status, body = await ask(port, ASK)
        assert status == 200
        np.testing.assert_array_equal(np.frombuffer(body[-16:], np.float32), 2 * X["x"][0] + 1)
        answers = await closed_loop("127.0.0.1", port, [ASK], 32, 0.5, 0.0)
        assert set(answers.status) == {200}
        assert max(nodes.sizes) > 8
        assert relay.idle
        assert relay.waiting_bytes == 0
        stats = json.loads((await ask(port, get("/v2/models/stats")))[1])["model_stats"][0]
        assert stats["node"] == "here"
        assert stats["jouleflow"]["completed"] == stats["jouleflow"]["accepted"] == relay.statuses[200]
        assert b'jouleflow_requests_total{end="completed"' in (await ask(port, get("/metrics")))[1]
        assert (await ask(port, get("/v2/health/ready")))[0] == 200
        assert (await ask(port, get("/v2/models/double")))[0] == 200
        assert (await ask(port, get("/live.json")))[0] == 404
        assert (await ask(port, infer_request("none", X)))[0] == 404

    relayed(folder, work)


def test_what_a_lost_node_left_unanswered_is_sent_again(folder: Path) -> None:
    async def work(relay: Relay, nodes: Nodes, port: int) -> None:
        answers = await closed_loop("127.0.0.1", port, [ASK], 16, 0.5, 0.0)
        assert set(answers.status) == {200}
        assert relay.n_retried >= 3
        assert relay.idle

    relayed(folder, work, n_lost=3)


def test_what_is_too_late_to_be_sent_again_is_told_so(folder: Path) -> None:
    hasty = infer_request("double", X, timeout_s=0.05)  # the first wait is longer
    unreadable = b"POST /v2/models/double/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{]"

    async def work(relay: Relay, nodes: Nodes, port: int) -> None:
        assert await pipelined(port, ASK, hasty, unreadable) == [200, 504, 400]
        assert nodes.sizes == [3, 2]
        assert relay.statuses == {200: 1, 504: 1, 400: 1}
        assert relay.n_retried == 2
        assert relay.idle
        assert relay.waiting_bytes == 0
        first, again = nodes.waited_s
        assert again - first > 0.9 * RETRIES_S[1]
        nodes.n_unreached = 1
        in_json = (
            b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}],"parameters":{"timeout":50000}}'
        )
        head = b"POST /v2/models/double/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(in_json)
        status, body = await ask(port, head + in_json)
        assert status == 504
        assert b"deadline" in body
        assert len(nodes.sizes) == 3

    relayed(folder, work, n_unreached=1)


def test_an_slo_is_a_deadline_also_when_a_node_is_lost(tmp_path: Path) -> None:
    async def work(relay: Relay, nodes: Nodes, port: int) -> None:
        assert (await ask(port, ASK))[0] == 504
        assert nodes.sizes == [1]
        assert (await ask(port, get("/v2/models/double")))[0] == 200  # that has none
        assert nodes.sizes == [1, 1, 1]

    relayed(with_slo(tmp_path, 50), work, n_unreached=2)


@pytest.mark.parametrize("of_its_own", [False, True])
def test_time_that_passed_at_the_front_counts_on_the_node(tmp_path: Path, of_its_own: bool) -> None:
    head, _, body = infer_request("double", X, timeout_s=2.0 if of_its_own else 0.0).partition(b"\r\n\r\n")
    size = head.lower().partition(b"inference-header-content-length: ")[2].split(b"\r")[0]

    async def work(relay: Relay, nodes: Nodes, port: int) -> None:
        served = nodes.replica.server.models["double"]

        async def status_of(waited_s: float) -> int:
            wire = Wire(b"POST", b"/v2/models/double/infer", size, body, waited_s)
            answers = [answer async for answers in nodes.replica.answer([wire]) for answer in answers]
            return int(answers[0][1][9:12])

        assert await status_of(5.0) == 503
        assert served.queue.counts["rejected"] == 1
        assert not served.tally.batch_sizes
        served.queue.n_running += 1  # a refusal is remembered
        assert await status_of(5.0) == 503
        served.queue.n_running -= 1
        assert await status_of(0.0) == 200, "what has more time is not refused for it"
        queue_s = served.tally.queue_s
        assert await status_of(1.0) == 200
        assert served.tally.queue_s - queue_s > 1.0

    relayed(with_slo(tmp_path, 0 if of_its_own else 2000), work)


@pytest.mark.slow
def test_no_node_and_full_nodes_are_told_with_retry_after(folder: Path) -> None:
    async def work(relay: Relay, nodes: Nodes, port: int) -> None:
        status, body = await ask(port, ASK)
        assert status == 503
        assert b"queues" in body if nodes.full else b"no node" in body
        assert relay.idle

    relayed(folder, work, full=True)
    relayed(folder, work, n_lost=10**6)


def test_the_token_and_the_limits_are_the_fronts(folder: Path) -> None:
    async def work(relay: Relay, nodes: Nodes, port: int) -> None:
        assert (await ask(port, ASK))[0] == 401
        assert (await ask(port, infer_request("double", X, token="secret")))[0] == 200
        large = {"x": np.ones((100, 4), np.float32)}
        assert (await ask(port, infer_request("double", large, token="secret")))[0] == 413
        assert (await ask(port, infer_request("double", X, "elsewhere", token="secret")))[0] == 403
        relay.waiting_bytes = relay.limits.max_waiting_bytes
        assert (await ask(port, infer_request("double", X, token="secret")))[0] == 503

    relayed(folder, work, Limits(max_body_bytes=1000), "secret")


def test_who_goes_away_is_cancelled_on_the_node(folder: Path) -> None:
    async def work(relay: Relay, nodes: Nodes, port: int) -> None:
        served = nodes.replica.server.models["double"]
        served.queue.ready = False  # nothing starts
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ASK)
        while not served.queue.n_jobs:
            await asyncio.sleep(0.01)
        writer.transport.abort()
        while not relay.idle:
            await asyncio.sleep(0.01)
        served.queue.ready = True
        assert (await ask(port, ASK))[0] == 200
        assert served.queue.counts["cancelled"] == 1
        assert served.queue.counts["completed"] == 1

    relayed(folder, work)


def test_a_model_that_stays_dead_makes_the_node_unhealthy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(relay: Relay, nodes: Nodes, port: int) -> None:
        nodes.replica.check()
        nodes.replica.server.draining = True  # it is not started again
        nodes.replica.server.models["double"].process.kill()
        nodes.replica.check()
        monkeypatch.setattr("jouleflow.serve.replica.UNHEALTHY_S", 0.0)
        with pytest.raises(RuntimeError, match="double has been dead"):
            nodes.replica.check()

    relayed(folder, work)


def test_a_batch_that_never_ends_is_ended_on_the_node(tmp_path: Path) -> None:
    counter(tmp_path / "counter.onnx")

    async def work(relay: Relay, nodes: Nodes, port: int) -> None:
        endless = infer_request("counter", {"n": np.array([1 << 60])})
        status, body = await asyncio.wait_for(ask(port, endless), 30)
        assert status == 503
        assert b"more than 1 s" in body
        assert b'jouleflow_model_deaths_total{model="counter",node="here"} 1.0' in (await ask(port, get("/metrics")))[1]

    relayed(tmp_path, work, Limits(run_s=1.0))


def test_what_was_wasted_on_the_node_is_charged(folder: Path) -> None:
    async def work(relay: Relay, nodes: Nodes, port: int) -> None:
        nodes.replica.server.models["double"].tally.wasted_core_s["late"] += 2.0
        async with asyncio.timeout(30):
            while True:
                stats = json.loads((await ask(port, get("/v2/models/stats")))[1])["model_stats"][0]
                energy_j = stats["jouleflow"]["wasted"]["energy_j"]
                if energy_j["late"]:
                    break
                await asyncio.sleep(0.05)
        meter = nodes.replica.history.meter
        assert energy_j == {"late": 2.0 * meter.core_w, "gone": 0.0, "failed": 0.0}
        assert meter.core_w == CORE_W or meter.provenance == "measured"
        text = (await ask(port, get("/metrics")))[1].decode()
        told = {
            (s.name, *sorted(s.labels.items())): s.value
            for f in text_string_to_metric_families(text)
            for s in f.samples
        }
        at = ("model", "double"), ("node", "here")
        why = ("version", "1"), ("why", "late")
        assert told["jouleflow_wasted_core_seconds_total", *at, *why] == 2.0
        assert told["jouleflow_wasted_joules_total", *at, ("provenance", "modelled"), *why] == energy_j["late"]
        before_j = told["jouleflow_energy_joules_total", ("node", "here"), ("provenance", meter.provenance)]
        assert 0.0 < before_j <= nodes.replica.history.energy_j()

    relayed(folder, work)


def test_models_are_shipped_as_the_repository_allows(tmp_path: Path) -> None:
    root = tmp_path / "models"
    affine(root / "bare.onnx")
    affine(root / "many" / "1" / "model.onnx")
    affine(root / "many" / "2" / "model.onnx")
    (root / "many" / "jouleflow.toml").write_text("slo_ms = 50\n")
    (root / "many" / "2" / "weights.bin").write_bytes(b"123")
    (tmp_path / "secret").write_text("secret")
    (root / "many" / "2" / "link").symlink_to(tmp_path / "secret")
    (root / "many" / "2" / "hard").hardlink_to(tmp_path / "secret")
    (root / "linked.onnx").symlink_to(root / "bare.onnx")
    packed, problems = pack_models(Repository(root))
    assert {name: sorted(files) for name, files in packed.items()} == {
        "bare": ["bare.onnx"],
        "many": ["many/2/model.onnx", "many/2/weights.bin", "many/jouleflow.toml"],
    }
    assert list(problems) == ["linked"]
    unpack_models(packed["many"], tmp_path / "there")
    assert Repository(tmp_path / "there").find("many").slo_s == 0.05


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "a\0b", ""])
def test_shipped_files_stay_beneath_their_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="beneath"):
        unpack_models({name: b""}, tmp_path)
