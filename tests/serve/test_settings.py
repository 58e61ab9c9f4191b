"""What a node of a cluster is sent, it can make again: CI runs this compiled too, where what is frozen and compiled cannot be."""

import pickle
from pathlib import Path

import pytest

from jouleflow.serve.limits import Limits
from jouleflow.serve.replica import Wire
from jouleflow.serve.settings import ServerSettings


@pytest.mark.parametrize(
    "sent",
    [ServerSettings("bcedge", Path("net.onnx"), 3, Path("slots"), Limits(drain_s=1.0), True), Wire(b"POST", b"/v2", b"12", b"body", 0.5)],
    ids=lambda sent: type(sent).__name__,
)  # fmt: skip
def test_it_survives_the_way(sent: object) -> None:
    assert pickle.loads(pickle.dumps(sent)) == sent
