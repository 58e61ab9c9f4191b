"""Limits from a file: any of them, nothing else, and no value that could not be one. They are what the server then holds to."""

from __future__ import annotations

import http.client
from dataclasses import fields, replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jouleflow.cli.main import app
from jouleflow.errors import InputError
from jouleflow.load.local_server import local_server
from jouleflow.load.run import Load, run_load
from jouleflow.serve.limits import MOST, MOST_COUNT, Limits, load_limits
from jouleflow.serve.proto import message
from jouleflow.serve.settings import ServerSettings
from tests.runtime.models import affine
from tests.serve.conftest import serving
from tests.serve.test_rpc import BOTH, call, channel_to


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
def test_each_can_be_changed(tmp_path: Path, name: str) -> None:
    value = getattr(Limits(), name)
    other = value + 1 if isinstance(value, int) else value / 2
    limits = load_limits(written(tmp_path / "limits.toml", f"{name} = {other}\n"))
    assert limits == replace(Limits(), **{name: other})


def test_a_whole_number_of_seconds_is_one(tmp_path: Path) -> None:
    assert load_limits(written(tmp_path / "limits.toml", "run_s = 5\n")).run_s == 5.0
    assert load_limits(written(tmp_path / "limits.toml", "")) == Limits()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("max_body_byte = 1", ["max_body_byte", "did you mean max_body_bytes"]),
        ("[http]\nmax_streams = 1", ["'http' is no limit", "max_streams"]),
        ("max_streams = 0", ["max_streams = 0", "whole number, 1 to", "leave it out for 256"]),
        ("max_streams = -3", ["max_streams = -3", "1 to"]),
        ("max_streams = 2.0", ["max_streams = 2.0", "whole number"]),
        ("max_streams = true", ["max_streams = True"]),
        ('max_streams = "many"', ["max_streams = 'many'"]),
        ("max_streams = 99999999999999999999", ["max_streams = 9999"]),
        ("run_s = 0.0", ["run_s = 0.0", "above 0", "leave it out for 120.0"]),
        ("run_s = nan", ["run_s = nan"]),
        ("run_s = inf", ["run_s = inf"]),
        ("model_memory_frac = 1.5", ["model_memory_frac = 1.5", "up to 1"]),
        ("run_s = ", ["not TOML"]),
        ("\x00", ["not TOML"]),
    ],
)
def test_what_is_no_limit_is_refused(tmp_path: Path, text: str, told: list[str]) -> None:
    with pytest.raises(InputError) as refused:
        load_limits(written(tmp_path / "limits.toml", text))
    assert "limits.toml" in str(refused.value)
    for part in told:
        assert part in str(refused.value)


def test_a_file_that_is_not_there_is_misuse(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_limits(tmp_path / "none.toml")
    done = CliRunner().invoke(app, ["serve", str(tmp_path), "--limits", str(written(tmp_path / "l.toml", "a = 1"))])
    assert isinstance(done.exception, InputError)


def test_the_largest_can_be_served_with(tmp_path: Path) -> None:
    """gRPC holds its options in 32 bits."""
    affine(tmp_path / "double.onnx")
    most = {field.name: MOST.get(field.name.rpartition("_")[2], MOST_COUNT) for field in fields(Limits)}
    text = "".join(f"{name} = {value}\n" for name, value in most.items())
    with serving(tmp_path, ServerSettings(limits=load_limits(written(tmp_path / "l.toml", text))), BOTH) as server:
        assert server.ask("GET", "/v2/health/ready")[0] == 200
        with channel_to(server) as channel:
            assert call(channel, "ServerReady")(message("ServerReadyRequest")(), timeout=30).ready


def test_a_server_holds_to_the_file(tmp_path: Path) -> None:
    affine(tmp_path / "models" / "double.onnx")
    limits = written(tmp_path / "limits.toml", "max_body_bytes = 2000\n")
    with local_server(tmp_path / "models", ("--limits", str(limits))) as server:
        assert run_load(Load(server.url, "double", None, 1, 0.2)).status.count(200) > 0
        connection = http.client.HTTPConnection(server.host, server.port, timeout=30)
        connection.request("POST", "/v2/models/double/infer", bytes(2001))
        assert connection.getresponse().status == 413
