"""Tokens are never in a command line, what the server writes, its pages, or reports; whoever asks, rightly or wrongly."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from jouleflow.load.report import load_report, report_lines
from jouleflow.load.run import Load
from jouleflow.serve.page import standalone
from jouleflow.serve.proto import SERVICE, methods
from tests.runtime.models import affine
from tests.serve.test_chaos import infer_body
from tests.serve.test_faults import until

TOKEN, ADMIN_TOKEN, WRONG = "asks-5f2c81d0", "rules-91be77a4", "guesses-c40d2e19"
SECRETS = (TOKEN, ADMIN_TOKEN, WRONG)  # one that is wrong here may be right elsewhere
INFER = "/v2/models/double/infer"


@pytest.fixture
def program(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path, dict[str, int]]]:
    """A server as a program, the file that it writes to, and its ports."""
    affine(tmp_path / "models" / "double.onnx")
    command = [sys.executable, "-m", "jouleflow", "serve", str(tmp_path / "models"), "--http", "127.0.0.1:0"]
    command += ["--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    environment = {**os.environ, "JOULEFLOW_TOKEN": TOKEN, "JOULEFLOW_ADMIN_TOKEN": ADMIN_TOKEN}
    written = tmp_path / "written"
    with written.open("wb") as file:
        child = subprocess.Popen(command, stdout=file, stderr=file, env=environment)
    try:
        assert until(lambda: "listening" in written.read_text(), 60)
        ports = {name: int(port) for name, port in re.findall(r"(\w+) on port (\d+)", written.read_text())}
        yield child, written, ports
    finally:
        child.kill()
        child.wait()


def ask(port: int, method: str, path: str, authorization: str, body: bytes | None = None) -> tuple[int, str]:
    """Status, and all that came back: reason, headers, body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, {"Authorization": authorization})
    answer = connection.getresponse()
    said = f"{answer.reason}\n{answer.getheaders()}\n{answer.read().decode(errors='replace')}"
    connection.close()
    return answer.status, said


def family(pid: int) -> list[int]:
    """A process and its children."""
    return [
        pid,
        *(int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()),
    ]


def test_tokens_are_in_no_command_line_log_page_or_report(
    program: tuple[subprocess.Popen[bytes], Path, dict[str, int]],
) -> None:
    child, written, ports = program
    right, rules, wrong = (f"Bearer {token}" for token in SECRETS)
    body = json.dumps(infer_body()).encode()
    said: list[str] = []
    asked = [
        (ports["http"], "POST", INFER, right, body, 200), (ports["http"], "POST", INFER, wrong, body, 401),
        (ports["http"], "POST", INFER, rules, body, 401), (ports["http"], "POST", INFER, right, b"{", 400),
        (ports["http"], "POST", "/v2/models/none/infer", right, body, 404), (ports["http"], "PUT", "/v2", right, None, 405),
        (ports["http"], "GET", "/" + "x" * 5000, right, None, 414), (ports["http"], "GET", "/v2", f"Basic {TOKEN}", None, 401),
        (ports["admin"], "POST", "/v2/repository/models/double/load", rules, b"{}", 200),
        (ports["admin"], "POST", "/v2/repository/models/none/load", rules, b"{}", 400),
        (ports["admin"], "POST", "/v2/repository/index", right, b"{}", 401),
    ]  # fmt: skip
    for port, method, path, authorization, sent, status in asked:
        found, text = ask(port, method, path, authorization, sent)
        assert (found, path[:40]) == (status, path[:40])
        said.append(text)
    with grpc.insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        _, asks, answer = next(m for m in methods() if m[0] == "ModelReady")
        ready = channel.unary_unary(f"/{SERVICE}/ModelReady", asks.SerializeToString, answer.FromString)
        assert ready(asks(name="double"), metadata=[("authorization", right)], timeout=30).ready
        for name, metadata in (("double", wrong), ("none", right)):
            with pytest.raises(grpc.RpcError) as refused:
                ready(asks(name=name), metadata=[("authorization", metadata)], timeout=30)
            said.append(str(refused.value))
    report = load_report(Load(f"http://127.0.0.1:{ports['http']}", "double", None, 2, 0.2, token=TOKEN))
    assert report["statuses"].keys() == {"200"}
    said += [json.dumps(report), *(how_much for _, how_much in report_lines(report))]

    assert until(lambda: len(family(child.pid)) == 2)  # the model that was replaced has ended
    processes = family(child.pid)
    said += [Path(f"/proc/{pid}/cmdline").read_text() for pid in processes]
    said += [Path(f"/proc/{pid}/environ").read_text() for pid in processes[1:]]
    os.kill(processes[1], signal.SIGKILL)  # it says something of that
    time.sleep(1.0)  # and of what it saw in its last second
    for path in ("/", "/live.js", "/live.json", "/metrics", "/openapi.json", "/v2", "/v2/models/stats"):
        found, text = ask(ports["http"], "GET", path, right)
        assert found == 200
        said.append(text)
        if path == "/live.json":
            said.append(standalone(json.loads(text.rpartition("\n")[2])))
    child.send_signal(signal.SIGTERM)
    assert child.wait(60) == 0
    said.append(written.read_text())
    assert "accepted" in said[-1]
    leaks = [(secret, text[:200]) for text in said for secret in SECRETS if secret in text]
    assert not leaks
