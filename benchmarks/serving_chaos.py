"""Faults and hostile clients on a real server under load: does every request end once, and do server and clients agree on it?

python benchmarks/serving_chaos.py [--only worker_killed,disk_full] [--seconds 4]

Each scenario starts a server of its own, puts load on it, does its harm, and checks. Always: accepted = completed + rejected +
expired + cancelled + failed, and as many as the clients count. Exits 1 when a check fails. half_open takes 90 s.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from serving_process import ENDS, Account, ServerProcess, load
from setting import ROOT, write_json

sys.path.insert(0, str(ROOT))
from tests.runtime.models import affine, memory_hog, wide

from jouleflow.demo_serve.networks import SHAPES, kws
from jouleflow.load.client import infer_request
from jouleflow.serve.proto import SERVICE, message, methods

Row = dict[str, Any]
X = np.ones((1, 4), np.float32)
FAST = infer_request("fast", {"x": X})
KWS = infer_request("kws", {"x": np.zeros((1, *SHAPES["kws"]), np.float32)})
RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: close with a reset
TCP_REPAIR = 19  # a socket in repair is closed without a word to its peer: what a machine that vanished looks like
MIB = 1 << 20
UNREAD_BYTES = (
    1024 * MIB
)  # 256 unsent, a full batch's outputs (512) where the model leaves them, and copies of some of it
SPREAD_BYTES = 64 * MIB  # of two rounds: how many answers are being made when they are looked at differs


def accounted(account: Account, counts: dict[str, int]) -> Row:
    """Whether the counts of a server that only these clients asked add up, and agree with theirs."""
    ended = sum(counts[end] for end in ENDS)
    answered = sum(account.statuses.values())
    sure = account.lost == 0
    return {
        "account": {"sent": account.sent, "lost": account.lost, "statuses": dict(sorted(account.statuses.items()))},
        "counts": {k: counts[k] for k in ("accepted", *ENDS)},
        "checks": {
            "counts add up": counts["accepted"] == ended,
            "one answer or a lost connection each": account.adds_up,
            "server and clients agree": answered <= counts["accepted"] <= account.sent
            and account.statuses[200] <= counts["completed"]
            and (not sure or account.statuses[200] == counts["completed"]),
        },
    }


async def under_load(
    server: ServerProcess, harm: Callable[[], Any], request: bytes, seconds: float, n_clients: int = 16
) -> Account:
    """The account of a load during which harm is done, after a quarter of it."""

    async def later() -> None:
        await asyncio.sleep(seconds / 4)
        await asyncio.to_thread(harm)

    account, _ = await asyncio.gather(load(server.port, request, n_clients, seconds), later())
    return account


def run_under_load(server: ServerProcess, harm: Callable[[], Any], request: bytes, seconds: float) -> Account:
    return asyncio.run(under_load(server, harm, request, seconds))


def worker_killed(folder: Path, seconds: float) -> Row:
    kws(folder / "kws" / "model.onnx", 200)
    server = ServerProcess(folder)
    down_s: list[float] = []

    def harm() -> None:
        for _ in range(2):
            os.kill(server.workers()[0], signal.SIGKILL)
            start_s, was_down = time.monotonic(), False
            while time.monotonic() < start_s + 20 and not (was_down and server.ready()):
                was_down = was_down or not server.ready()
                time.sleep(0.005)
            down_s.append(time.monotonic() - start_s)

    account = run_under_load(server, harm, KWS, max(seconds, 8))
    row = accounted(account, server.settled()["kws"])
    row |= {"down_s": down_s, "longest_answer_s": account.longest_s}
    row["checks"] |= {"it came back": max(down_s) < 20 and server.ready(), "nobody waited": account.longest_s < 2.0}
    row["checks"] |= {"no connection lost": account.lost == 0, "not ready meanwhile": account.statuses[503] > 0}
    server.terminate()
    return row


def out_of_memory(folder: Path, seconds: float) -> Row:
    affine(folder / "fast" / "model.onnx")
    memory_hog(folder / "hog" / "model.onnx")
    (folder / "hog" / "jouleflow.toml").write_text("memory_mb = 3000\n")
    server = ServerProcess(folder)
    hogs: list[Account] = []

    def harm() -> None:
        much = infer_request("hog", {"n": np.array([60_000], np.int64)})
        hogs.append(asyncio.run(load(server.port, much, 4, seconds / 2, 0.01)))

    account = run_under_load(server, harm, FAST, seconds)
    stats = server.settled()
    row, hog = accounted(account, stats["fast"]), accounted(hogs[0], stats["hog"])
    row["hog"] = {k: hog[k] for k in ("account", "counts")}
    row["checks"] |= {f"hog: {k}": v for k, v in hog["checks"].items()}
    row["checks"]["the other model noticed nothing"] = set(account.statuses) == {200} and not account.lost
    row["checks"]["every hog was told"] = not hogs[0].statuses[200] and not hogs[0].lost
    server.terminate()
    return row


def _many(server: ServerProcess, n: int, first: bytes) -> list[socket.socket]:
    sockets = []
    for _ in range(n):
        s = socket.create_connection(("127.0.0.1", server.port))
        sockets.append(s)
        try:
            s.sendall(first)
        except OSError:
            continue
    return sockets


def clients_vanish(folder: Path, seconds: float) -> Row:
    """Beside good clients, others ask and go: half of them politely, half with a reset."""
    kws(folder / "kws" / "model.onnx", 200)
    server = ServerProcess(folder)
    n_gone = 0

    def harm() -> None:
        nonlocal n_gone
        until_s = time.monotonic() + seconds / 2
        while time.monotonic() < until_s:
            for k, s in enumerate(_many(server, 50, KWS)):
                if k % 2:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                s.close()
                n_gone += 1

    account = run_under_load(server, harm, KWS, seconds)
    counts = server.settled()["kws"]
    row = accounted(account, {**counts, "accepted": counts["accepted"]})
    row["gone"] = n_gone
    row["wasted"] = counts["wasted"]
    row["checks"]["server and clients agree"] = account.sent <= counts["accepted"] <= account.sent + n_gone
    row["checks"]["what waited for them was not run"] = counts["cancelled"] > 0
    row["checks"]["the others noticed nothing"] = not account.lost and set(account.statuses) == {200}
    server.terminate()
    return row


def _hostile(folder: Path, seconds: float, do: Callable[[ServerProcess], None]) -> Row:
    """Memory before, during and after something hostile, with a light load beside it. First come as many good clients as there
    will be hostile ones: what those cost is not counted, and `rss_per_connection_bytes` says what it is."""
    affine(folder / "fast" / "model.onnx")
    server = ServerProcess(folder)
    warm = asyncio.run(load(server.port, FAST, 16, 2.0))
    first_bytes, n_idle = server.rss_bytes(), 800
    idle = _many(server, n_idle, b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
    time.sleep(0.5)
    per_connection_bytes = (server.rss_bytes() - first_bytes) / n_idle
    for s in idle:
        s.close()
    time.sleep(0.5)
    sampled, before_bytes = [0], server.rss_bytes()

    def harm() -> None:
        do(server)
        sampled.append(server.rss_bytes())

    account = run_under_load(server, harm, FAST, seconds)
    time.sleep(3.0)
    after_bytes = server.rss_bytes()
    account.sent, account.lost = account.sent + warm.sent, account.lost + warm.lost
    account.statuses += warm.statuses
    row = accounted(account, server.settled()["fast"])
    row |= {"rss_before_bytes": before_bytes, "rss_during_bytes": sampled[-1], "rss_after_bytes": after_bytes}
    row["rss_per_connection_bytes"] = per_connection_bytes
    row["latency_p99_s"] = account.percentile(99)
    row["checks"]["memory grew at most 1 MiB"] = after_bytes - before_bytes <= MIB
    row["checks"]["the others noticed nothing"] = not account.lost and set(account.statuses) == {200}
    server.terminate()
    return row


def slow_loris(folder: Path, seconds: float) -> Row:
    """800 connections that send a header a byte at a time. They are cut off after header_s = 10 s."""
    ended = Counter[str]()

    def do(server: ServerProcess) -> None:
        sockets = _many(server, 800, b"POST /v2/models/fast/infer HTTP/1.1\r\nX-Slow: ")
        until_s = time.monotonic() + 13
        while time.monotonic() < until_s:
            for s in sockets:
                try:
                    s.send(b"a")
                except OSError:
                    continue
            time.sleep(0.5)
        for s in sockets:
            s.settimeout(0.2)
            try:
                ended["cut off" if s.recv(12) in (b"HTTP/1.1 408", b"") else "answered"] += 1
            except TimeoutError:
                ended["still there"] += 1
            except OSError:
                ended["cut off"] += 1
            s.close()

    row = _hostile(folder, max(seconds, 20), do)
    row["ended"] = dict(ended)
    row["checks"]["all are cut off"] = ended["cut off"] == 800
    return row


def reset_clients(folder: Path, seconds: float) -> Row:
    def do(server: ServerProcess) -> None:
        for k in range(1000):
            for s in _many(server, 1, FAST[: 10 + k % len(FAST)]):
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                s.close()

    row = _hostile(folder, max(seconds, 6), do)
    row["checks"]["server and clients agree"] = row["counts"]["accepted"] >= row["account"]["sent"]  # some were whole
    return row


def bad_chunks(folder: Path, seconds: float) -> Row:
    kinds = (
        b"zz\r\n",
        b"ffffffffffffffffff\r\n",
        b"-1\r\nx",
        b"5\r\nhelloXX",
        b"5;" + b"a" * 9000,
        b"1\r\na\r\n" * 2000,
    )
    head = b"POST /v2/models/fast/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"

    def do(server: ServerProcess) -> None:
        sockets = [s for k in range(100) for s in _many(server, 1, head + kinds[k % len(kinds)])]
        time.sleep(0.5)
        for s in sockets:
            s.close()

    return _hostile(folder, seconds, do)


def half_open(folder: Path, seconds: float) -> Row:
    """Peers that vanish without a word, or say nothing: they leave no memory behind."""
    held: dict[str, int] = {}

    def do(server: ServerProcess) -> None:
        silent = _many(server, 200, b"")
        try:
            for s in silent:
                s.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        except OSError:
            held["peers vanish"] = 0  # not permitted here: they stay, and say nothing
        time.sleep(2)
        held["fds_with_them"] = server.n_fds()
        for s in silent:
            s.close()
        until_s = time.monotonic() + 80
        while time.monotonic() < until_s and server.n_fds() > held["fds_with_them"] - 200:
            time.sleep(0.5)
        held["fds_after"] = server.n_fds()

    row = _hostile(folder, max(seconds, 90), do)
    row |= held
    row["checks"]["all were ended"] = held["fds_after"] <= held["fds_with_them"] - 200
    return row


def unread_answers(folder: Path, seconds: float) -> Row:
    """Clients that ask for much and read nothing (answers of 16 MB, pipelined), twice: while they stay, their answers take at most
    max_unsent_bytes, and the batches that make them a few times an answer; the second time takes no more than the first."""
    wide(folder / "wide" / "model.onnx")
    held: dict[str, list[int]] = {"rss_with_them_bytes": [], "rss_without_them_bytes": []}
    ask = infer_request("wide", {"x": np.ones((1, 1), np.float32)})

    def do(server: ServerProcess) -> None:
        for _ in range(2):
            unread = []
            for _ in range(8):
                s = socket.socket()
                s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                s.connect(("127.0.0.1", server.port))
                s.sendall(ask * 8)
                unread.append(s)
            held["rss_with_them_bytes"].append(_steady_rss_bytes(server))
            for s in unread:
                s.close()
            time.sleep(4)
            held["rss_without_them_bytes"].append(server.rss_bytes())

    row = _hostile(folder, max(seconds, 45), do)
    row |= held
    first, second = held["rss_with_them_bytes"]
    row["checks"].pop("memory grew at most 1 MiB")  # what a large batch took once is kept for the next
    row["checks"]["answers that nobody reads are bounded"] = max(first, second) - row["rss_before_bytes"] < UNREAD_BYTES
    row["checks"]["a second round takes no more"] = second <= first + SPREAD_BYTES
    left_first, left_second = held["rss_without_them_bytes"]
    row["checks"]["nor leaves more behind"] = left_second <= left_first + SPREAD_BYTES
    return row


def _steady_rss_bytes(server: ServerProcess) -> int:
    """Once it has not grown for some seconds, or after half a minute."""
    sizes = [server.rss_bytes()]
    while len(sizes) < 60 and (len(sizes) < 10 or sizes[-10] + SPREAD_BYTES < sizes[-1]):
        time.sleep(0.5)
        sizes.append(server.rss_bytes())
    return sizes[-1]


def reloads(folder: Path, seconds: float) -> Row:
    """New versions under load, and broken ones: the old one goes on."""
    affine(folder / "fast" / "1" / "model.onnx")
    server = ServerProcess(folder)
    statuses: list[int] = []

    def harm() -> None:
        for version in (2, 3):
            affine(folder / "fast" / str(version) / "model.onnx")
            statuses.append(server.load("fast"))
        for version, content in (
            (4, b"broken"),
            (5, b""),
            (6, (folder / "fast" / "1" / "model.onnx").read_bytes()[:-9]),
        ):
            (folder / "fast" / str(version)).mkdir()
            (folder / "fast" / str(version) / "model.onnx").write_bytes(content)
            statuses.append(server.load("fast"))

    account = run_under_load(server, harm, FAST, max(seconds, 12))
    served = server.get("/v2/models/fast")["versions"]
    ready = server.ready()
    _, _ = server.terminate()
    total: Counter[str] = Counter()
    for line in server.lines:
        if " accepted = " in line:
            words = line.replace(",", "").split()
            total.update({"accepted": int(words[3])} | {words[k + 1]: int(words[k]) for k in range(6, len(words), 2)})
    row = accounted(account, {k: total[k] for k in ("accepted", *ENDS)})
    row |= {"loads": statuses, "serves": served}
    row["checks"] |= {
        "every request was answered 200": set(account.statuses) == {200} and not account.lost,
        "good versions load, broken ones are refused": statuses == [200, 200, 400, 400, 400],
        "the last good one serves": served == ["3"] and ready,
    }
    return row


def sigterm_http(folder: Path, seconds: float) -> Row:
    kws(folder / "kws" / "model.onnx", 400)
    server = ServerProcess(folder)
    ended: list[tuple[int, dict[str, dict[str, int]]]] = []
    account = run_under_load(server, lambda: ended.append(server.terminate()), KWS, seconds)
    status, counts = ended[0]
    row = accounted(account, counts["kws"])
    answers = account.statuses[200] + account.statuses[503] + account.statuses[429]
    row["checks"] |= {
        "exit status 0": status == 0,
        "no accepted request lost": account.statuses[200] == counts["kws"]["completed"]
        and answers == counts["kws"]["accepted"],
    }
    return row


def sigterm_grpc(folder: Path, seconds: float) -> Row:
    kws(folder / "kws" / "model.onnx", 400)
    server = ServerProcess(folder, grpc=True)
    _, asked, answer = next(m for m in methods() if m[0] == "ModelInfer")
    x = np.zeros((1, *SHAPES["kws"]), np.float32)
    request = asked(
        model_name="kws",
        inputs=[{"name": "x", "datatype": "FP32", "shape": x.shape}],
        raw_input_contents=[x.tobytes()],
    )
    assert isinstance(request, message("ModelInferRequest"))
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", [("grpc.enable_retries", 0)]) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer", asked.SerializeToString, answer.FromString)
        futures = [infer.future(request) for _ in range(2000)]
        until_s = time.monotonic() + 20
        while server.stats()["kws"]["accepted"] < 150 and time.monotonic() < until_s:
            time.sleep(0.002)
        status, counts = server.terminate()
        codes = Counter("OK" if f.exception(30) is None else f.exception(30).code().name for f in futures)
    kws_counts = counts["kws"]
    return {
        "codes": dict(codes),
        "counts": kws_counts,
        "checks": {
            "counts add up": kws_counts["accepted"] == sum(kws_counts[e] for e in ENDS),
            "exit status 0": status == 0,
            "each call ended": sum(codes.values()) == 2000,
            "no accepted request lost": codes["OK"] == kws_counts["completed"] and kws_counts["cancelled"] == 0,
            "the others were told that it stops": set(codes) <= {"OK", "UNAVAILABLE"},
        },
    }


def clock_jumps(folder: Path, seconds: float) -> Row:
    """The wall clock goes six hours ahead, back, six hours behind, and back; requests carry deadlines of a second."""
    kws(folder / "models" / "kws" / "model.onnx", 200)
    (folder / "models" / "kws" / "jouleflow.toml").write_text("slo_ms = 1000\n")
    library, shift = folder / "shift.so", folder / "shift"
    source = Path(__file__).with_name("clock_shift.c")
    build = [sys.executable, "-m", "ziglang", "cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source)]
    subprocess.run(build, check=True)
    shift.write_bytes(struct.pack("d", 0.0))
    server = ServerProcess(folder / "models", grpc=True, LD_PRELOAD=str(library), CLOCK_SHIFT=str(shift))
    _, asked, answer = next(m for m in methods() if m[0] == "ModelInfer")
    x = np.zeros((1, *SHAPES["kws"]), np.float32)
    inputs = [{"name": "x", "datatype": "FP32", "shape": x.shape}]
    call = asked(model_name="kws", inputs=inputs, raw_input_contents=[x.tobytes()])
    codes: Counter[str] = Counter()

    def harm() -> None:
        with (
            grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
            shift.open("r+b") as file,
        ):
            infer = channel.unary_unary(f"/{SERVICE}/ModelInfer", asked.SerializeToString, answer.FromString)
            for offset_s in (21_600.0, 0.0, -21_600.0, 0.0):
                file.seek(0)
                file.write(struct.pack("d", offset_s))
                file.flush()
                until_s = time.monotonic() + seconds / 6
                while time.monotonic() < until_s:
                    try:
                        infer(call, timeout=2.0)
                        codes["OK"] += 1
                    except grpc.RpcError as error:
                        codes[error.code().name] += 1

    account = run_under_load(server, harm, infer_request("kws", {"x": x}, timeout_s=1.0), seconds)
    counts = server.settled()["kws"]
    row = accounted(account, {k: counts[k] - (codes["OK"] if k in ("accepted", "completed") else 0) for k in counts if k in ("accepted", *ENDS)})  # fmt: skip
    row |= {"grpc": dict(codes), "latency_p99_s": account.percentile(99), "longest_s": account.longest_s}
    row["checks"] |= {
        "nothing expired": set(account.statuses) == {200},
        "nor over gRPC": set(codes) == {"OK"},
        "nothing stood still": account.longest_s < 1.0,
        "samples go on": len(server.get("/live.json")["samples"]) >= seconds * 0.7,
    }
    server.terminate()
    return row


def fill(path: Path) -> None:
    """Writes until the disk is full."""
    with path.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            continue


def disk_full(folder: Path, seconds: float) -> Row:
    """Models, working folder, temporary files and log on a disk that fills up. Needs the right to mount."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    server = None
    try:
        affine(disk / "models" / "fast" / "1" / "model.onnx")
        log = os.open(disk / "log", os.O_WRONLY | os.O_CREAT)
        server = ServerProcess(disk / "models", stderr=log, TMPDIR=str(disk), HOME=str(disk))
        os.close(log)
        statuses: list[int] = []

        def harm() -> None:
            new = disk / "models" / "fast" / "2" / "model.onnx"
            new.parent.mkdir()
            content = (disk / "models" / "fast" / "1" / "model.onnx").read_bytes()
            fill(disk / "filler")
            with contextlib.suppress(OSError):
                new.write_bytes(content * 100)  # cut off, as a copy to a full disk is
            statuses.append(server.load("fast"))
            (disk / "filler").unlink()
            new.write_bytes(content)
            fill(disk / "filler")
            statuses.append(server.load("fast"))  # whole, and the disk full: it needs none

        account = run_under_load(server, harm, FAST, max(seconds, 8))
        counts = server.settled()["fast"]
        row = {"loads": statuses, "account": {"sent": account.sent, "statuses": dict(account.statuses)}}
        row["checks"] = {
            "counts add up": counts["accepted"] == sum(counts[e] for e in ENDS),
            "every request was answered 200": set(account.statuses) == {200} and not account.lost,
            "a version that was cut off is refused": statuses[0] == 400,
            "a whole one loads on a full disk": statuses[1] == 200,
            "it stops cleanly": server.terminate()[0] == 0,
        }
        return row
    finally:
        if server is not None:
            server.kill()
        subprocess.run(["umount", str(disk)], check=False)


def priority(folder: Path, seconds: float) -> Row:
    """A model of high priority with an SLO of 50 ms beside a flood on one of low priority."""
    for name, text in (
        ("high", "priority = 1\nslo_ms = 50\n"),
        ("low", "priority = 9\nmax_batch = 4\nmax_queue = 64\n"),
    ):
        kws(folder / name / "model.onnx", 200)
        (folder / name / "jouleflow.toml").write_text(text)
    server = ServerProcess(folder)
    x = np.zeros((1, *SHAPES["kws"]), np.float32)

    async def both() -> list[Account]:
        return await asyncio.gather(
            load(server.port, infer_request("high", {"x": x}), 2, seconds, 0.02),
            load(server.port, infer_request("low", {"x": x}), 100, seconds, 0.0),
        )

    high, low = asyncio.run(both())
    stats = server.settled()
    row = accounted(high, stats["high"])
    row["low"] = accounted(low, stats["low"])
    row["checks"] |= {f"low: {k}": v for k, v in row["low"].pop("checks").items()}
    in_time_frac = sum(s <= 0.05 for s in high.latency_s) / max(high.sent, 1)
    row |= {"high_p99_s": high.percentile(99), "low_p99_s": low.percentile(99), "high_in_time_frac": in_time_frac}
    row["checks"]["high priority inside its SLO"] = in_time_frac >= 0.99
    server.terminate()
    return row


def stderr_blocked(folder: Path, seconds: float) -> Row:
    """Standard error is a pipe that is full and that nobody reads; every failed load wants to say something."""
    affine(folder / "fast" / "model.onnx")
    (folder / "broken.onnx").write_bytes(b"no")
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    try:
        while os.write(write_fd, bytes(4096)):
            continue
    except BlockingIOError:
        os.set_blocking(write_fd, True)
    server = ServerProcess(folder, stderr=write_fd)
    account = run_under_load(server, lambda: [server.load("broken") for _ in range(5)], FAST, max(seconds, 8))
    row = accounted(account, server.settled()["fast"])
    row["checks"]["every request was answered 200"] = set(account.statuses) == {200} and not account.lost
    row["checks"]["it stops cleanly"] = server.terminate()[0] == 0
    os.close(read_fd)
    os.close(write_fd)
    return row


SCENARIOS: dict[str, Callable[[Path, float], Row]] = {
    each.__name__: each
    for each in (
        worker_killed, out_of_memory, clients_vanish, slow_loris, reset_clients, bad_chunks, half_open, unread_answers, reloads,
        sigterm_http, sigterm_grpc, clock_jumps, disk_full, priority, stderr_blocked,
    )
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default=",".join(SCENARIOS))
    parser.add_argument("--seconds", type=float, default=4)
    a = parser.parse_args()
    rows = {}
    for name in a.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            try:
                row = SCENARIOS[name](Path(folder), a.seconds)
            except Exception as error:  # the others are run all the same
                row = {"error": f"{type(error).__name__}: {error}", "checks": {"it ran": False}}
        rows[name] = row
        failed = [check for check, holds in row["checks"].items() if not holds]
        print(name, "FAILED: " + "; ".join(failed) if failed else f"holds ({len(row['checks'])} checks)")
        print("  ", {k: v for k, v in row.items() if k != "checks"}, flush=True)
    if a.only == parser.get_default("only"):
        write_json("serving_chaos", rows)
    return int(any(not all(row["checks"].values()) for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
