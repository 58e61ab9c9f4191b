"""A real Ray cluster of two nodes on this machine: both answer, one is killed under load, and the cluster heals."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ray.serve", reason="the cluster extra is not installed", exc_type=ImportError)

from jouleflow.load.client import infer_request, open_loop
from jouleflow.runtime.meter import open_meter
from jouleflow.runtime.ray_cluster import NICENESS
from tests.runtime.models import affine
from tests.serve.test_chaos import SLOW, slow

pytestmark = pytest.mark.slow


def children(of: set[int]) -> set[int]:
    """All processes beneath some processes, those included."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = set(of)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def model_processes(of: set[int]) -> set[int]:
    found = set()
    for pid in children(of):
        try:
            if b"jouleflow.runtime.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.add(pid)
        except OSError:
            continue
    return found


def wait_until(holds: Callable[[], Any], seconds: float = 120.0, told: Callable[[], Any] = lambda: "") -> Any:
    """seconds: a node takes 8 to start, 18 on two cores that serve beside it, 32 where other tests have them too. told: what to say when it
    does not come to hold."""
    until = time.monotonic() + seconds
    while not (value := holds()):
        assert time.monotonic() < until, f"not within {seconds} s: {told()}"
        time.sleep(0.05)
    return value


class Served:
    """`jouleflow serve --ray` on a cluster of two nodes."""

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        os.environ[NICENESS] = "0"  # or other tests keep the nodes from ever starting
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        self.node = self.cluster.add_node(num_cpus=1)
        command = [
            sys.executable,
            "-m",
            "jouleflow",
            "serve",
            str(folder),
            "--ray",
            "--ray-address",
            self.cluster.address,
        ]
        self.front = subprocess.Popen(
            [*command, "--http", "127.0.0.1:0", "--cores", "1", "--core-power", "7W"],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.notes: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        line = wait_until(lambda: self.said("listening") or (self.front.poll() is not None and "ended"))
        assert line != "ended", self.notes
        self.port = int(line.rsplit(" ", 1)[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def _read(self) -> None:
        assert self.front.stderr is not None
        for line in self.front.stderr:
            self.notes.append(line.strip())

    def said(self, text: str) -> str | None:
        return next((line for line in self.notes if text in line), None)

    def get(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(self.url + path, body, timeout=30) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def infer(self, value: float) -> tuple[int, float]:
        data = [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [value] * 4}]
        status, raw = self.get("/v2/models/double/infer", json.dumps({"inputs": data}).encode())
        return status, json.loads(raw)["outputs"][0]["data"][0] if status == 200 else np.nan

    def wasted(self) -> tuple[float, float]:
        """Core seconds, and joules, over all nodes."""
        stats = json.loads(self.get("/v2/models/stats")[1])["model_stats"]
        each = [s["jouleflow"]["wasted"] for s in stats if s["name"] == "slow"]
        return sum(w["core_s"]["gone"] for w in each), sum(w["energy_j"]["gone"] for w in each)

    def completed_by_node(self) -> dict[str, int]:
        stats = json.loads(self.get("/v2/models/stats")[1])["model_stats"]
        return {s["node"]: s["jouleflow"]["completed"] for s in stats if s["name"] == "double"}

    def close(self) -> None:
        self.front.kill()
        self.front.wait()
        self.cluster.shutdown()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("models")
    affine(folder / "double.onnx")
    slow(folder / "slow.onnx")
    (folder / "broken").mkdir()
    (folder / "broken" / "model.onnx").write_bytes(b"no model")
    served = Served(folder)
    yield served
    served.close()


def test_both_nodes_answer(served: Served) -> None:
    assert served.get("/v2/health/live")[0] == 200
    assert "broken" in (served.said("not served on node") or "")
    assert served.said("niceness") is None
    assert served.infer(3.0) == (200, 7.0)
    assert served.get("/v2/models/none/infer", b"{}")[0] == 404
    assert served.get("/v2/repository/models/double/load", b"{}")[0] == 403

    def both() -> bool:
        return served.infer(1.0)[0] == 200 and sum(n > 0 for n in served.completed_by_node().values()) == 2

    def told() -> Any:
        return [served.infer(1.0) for _ in range(10)], served.get("/v2/models/stats"), served.notes

    wait_until(both, told=told)


def test_what_ran_for_nobody_is_charged_at_the_power_that_was_given(served: Served) -> None:
    rows = infer_request("slow", {"x": np.ones((16, 1500), np.float32)})

    def goes_away() -> bool:
        with socket.create_connection(("127.0.0.1", served.port)) as s:
            s.sendall(rows)
            time.sleep(0.05)
        return served.wasted()[0] > 0.0

    def charged() -> bool:
        core_s, energy_j = served.wasted()
        return energy_j == pytest.approx(7.0 * core_s) if modelled else energy_j > 0.0

    modelled = open_meter(list).provenance == "modelled"
    wait_until(goes_away)
    wait_until(charged)


def test_a_killed_node_loses_nothing_and_is_replaced(served: Served) -> None:
    orphans = model_processes({p.process.pid for each in served.node.all_processes.values() for p in each})
    assert orphans
    wrong, n_retried, n_done, stop = [], [0], [0], threading.Event()

    def client(number: int) -> None:
        value = float(number)
        while not stop.is_set():
            value += 100.0
            status, answer = served.infer(value)
            while status != 200:  # a client that retries
                n_retried[0] += 1
                time.sleep(0.1)
                status, answer = served.infer(value)
            n_done[0] += 1
            if answer != 2 * value + 1:
                wrong.append((value, answer))

    def healed() -> bool:
        return sum(n > 0 for n in served.completed_by_node().values()) == 2

    clients = [threading.Thread(target=client, args=(k,)) for k in range(8)]
    for each in clients:
        each.start()
    try:
        wait_until(lambda: n_done[0] > 50)
        served.cluster.remove_node(served.node, allow_graceful=False)
        wait_until(lambda: served.said("1 of 2 nodes serve"))
        n_at_loss = n_done[0]
        wait_until(lambda: n_done[0] > n_at_loss + 50)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))
        served.node = served.cluster.add_node(num_cpus=1)
        wait_until(lambda: served.said("2 of 2 nodes serve"), told=lambda: (served.notes, n_done, n_retried))
        wait_until(healed, told=served.completed_by_node)
    finally:
        stop.set()
    for each in clients:
        each.join(30)
        assert not each.is_alive()
    assert not wrong
    metrics = served.get("/metrics")[1].decode()
    assert "jouleflow_cluster_running_nodes 2.0" in metrics


def test_sigterm_answers_what_was_accepted_and_leaves_nothing(served: Served) -> None:
    threading.Timer(0.5, lambda: served.front.send_signal(signal.SIGTERM)).start()
    # all are accepted before the signal, many are answered after it
    answers = asyncio.run(open_loop("127.0.0.1", served.port, [infer_request("slow", SLOW)], np.linspace(0, 0.3, 60)))
    assert set(answers.status) == {200}
    assert served.front.wait(30) == 0
    nodes = {p.process.pid for n in served.cluster.list_all_nodes() for each in n.all_processes.values() for p in each}
    wait_until(lambda: not model_processes(nodes))
