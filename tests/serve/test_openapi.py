"""The OpenAPI document is what the server does: schemathesis asks what the document allows, and what it does not, of a live
server, and holds every answer against it. Deterministic, and bounded in requests."""

import importlib
import json
import pkgutil
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install 'jouleflow[dev]'")

import schemathesis
import schemathesis.specs.openapi
from schemathesis.engine import events

from jouleflow.runtime.tensors import NUMPY, encode_strings
from jouleflow.serve.app import AppSettings
from jouleflow.serve.settings import ServerSettings
from tests.runtime.models import affine, save
from tests.serve.conftest import Running, serving
from tests.serve.shared_files import SharedFile, X, extent, infer, register, tensor

# Now, while there is one thread: pytest parses the modules of its plugins, and CPython 3.11 cannot always do that beside another (gh-106905).
for module in pkgutil.walk_packages(schemathesis.specs.openapi.__path__, "schemathesis.specs.openapi."):
    importlib.import_module(module.name)

LENGTH = "Inference-Header-Content-Length"
CONFIG = {
    "seed": 0,
    "phases": {
        # What is asked must not follow from what was answered: that depends on how busy the machine is.
        "fuzzing": {"extra-data-sources": {"responses": False}, "error-feedback": {"enabled": False}},
        "stateful": {"enabled": False},  # no answer names another request
    },
    "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "4xx", "503", "504"]}},  # of a timeout of 1 us
    # Addresses of any model do not say what a certain one takes, and no schema says which files are there.
    "operations": [
        {"include-path-regex": path, "checks": {"positive_data_acceptance": {"enabled": False}}}
        for path in ("{model}.*/infer$", "{region}/register$")
    ],
}


def both(path: Path) -> Path:
    """Two inputs of two types, one of them with an open side, and two outputs: s = a + sum of b, t = b."""
    return save(
        path,
        [
            helper.make_node("Cast", ["b"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["f", "axes"], ["r"], keepdims=1),
            helper.make_node("Add", ["a", "r"], ["s"]),
            helper.make_node("Identity", ["b"], ["t"]),
        ],
        [("a", TensorProto.FLOAT, ["n", 3]), ("b", TensorProto.INT8, ["n", "k"])],
        [("s", TensorProto.FLOAT, ["n", 3]), ("t", TensorProto.INT8, ["n", "k"])],
        {"axes": np.array([1], np.int64)},
    )


def words(path: Path) -> Path:
    """Strings as they came."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return save(path, [node], [("x", TensorProto.STRING, ["n", 2])], [("y", TensorProto.STRING, ["n", 2])])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    affine(folder / "double.onnx")
    affine(folder / "fixed" / "model.onnx", batch=3)
    both(folder / "both.onnx")
    words(folder / "words.onnx")
    with serving(folder) as running:
        yield running


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    affine(folder / "double.onnx")
    at = AppSettings(http="127.0.0.1:0", admin="127.0.0.1:0", admin_token="root")
    with serving(folder, settings=at) as running:
        yield running


@pytest.fixture(scope="module")
def sharing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    affine(folder / "double.onnx")
    with serving(folder, ServerSettings(shared_memory=True)) as running:
        yield running


@pytest.fixture(autouse=True)
def whole_requests() -> Iterator[None]:
    schemathesis.hook(before_call)
    yield
    schemathesis.hooks.unregister(before_call)


def violations(url: str, paths: str, max_examples: int, **headers: str) -> list[str]:
    """What schemathesis found: answers that the document does not foresee, or that it forbids."""
    generation = {"deterministic": True, "database": "none", "max-examples": max_examples}
    config = schemathesis.config.SchemathesisConfig.from_dict({**CONFIG, "generation": generation, "headers": headers})
    schema = schemathesis.openapi.from_url(url, config=config, headers=headers).include(path_regex=paths)
    found: list[str] = []
    phases = set()
    for event in schemathesis.engine.from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            found.append(str(event))
        elif isinstance(event, events.ScenarioFinished):
            phases.add(event.phase.value.lower())
            for case, checks in event.recorder.checks.items():
                sent = event.recorder.cases[case].value
                found += [
                    f"{sent.method} {sent.formatted_path} {sent.body!r}: {c.failure_info.failure}"
                    for c in checks
                    if c.failure_info
                ]
    assert any("coverage" in p for p in phases)
    return found


def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Makes a valid request to a known model valid in what no schema can say: as many values as the shapes have, one batch size, no
    output twice, no region that nobody registered, and a length of the JSON only where bytes follow it. An integer may be 1.0 in a schema,
    and is 1 here."""
    if not case.meta.generation.mode.is_positive or not case.path.endswith("/infer") or "{" in case.path:
        return
    case.headers = {k: v for k, v in case.headers.items() if k != LENGTH}
    if case.media_type == "application/octet-stream":
        examples = case.operation.definition.raw["requestBody"]["content"]["application/json"]["examples"]
        case.body, case.headers[LENGTH] = as_binary(examples["one row"]["value"]["inputs"])
        return
    case.body = with_integers(case.body)
    inputs, wanted = case.body["inputs"], case.body.get("outputs", [])
    wanted[:] = {each["name"]: each for each in wanted}.values()
    for each in (*inputs, *wanted):
        if "shared_memory_region" in each.get("parameters", {}):
            del each["parameters"]
    for given in inputs:
        given["shape"] = [inputs[0]["shape"][0], *(min(side, 9) for side in given["shape"][1:])]
        values = flat(given.get("data", [])) or ["" if given["datatype"] == "BYTES" else 1]
        given["data"] = [values[k % len(values)] for k in range(prod(given["shape"]))]


def flat(values: Any) -> list[Any]:
    return [each for part in values for each in flat(part)] if isinstance(values, list) else [values]


def with_integers(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: with_integers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [with_integers(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def as_binary(inputs: list[dict[str, Any]]) -> tuple[bytes, str]:
    """The body of an example with its tensors as bytes, and the length of its JSON."""
    specs, raws = [], []
    for given in inputs:
        strings = given["datatype"] == "BYTES"
        data = np.array(given["data"], object)
        raws.append(encode_strings(data) if strings else data.astype(NUMPY[given["datatype"]]).tobytes())
        rest = {k: v for k, v in given.items() if k != "data"}
        specs.append({**rest, "parameters": {"binary_data_size": len(raws[-1])}})
    head = json.dumps({"inputs": specs, "parameters": {"binary_data_output": True}}).encode()
    return head + b"".join(raws), str(len(head))


@pytest.mark.slow
def test_answers_are_those_of_the_document(server: Running) -> None:
    assert violations(f"http://127.0.0.1:{server.port}/openapi.json", ".", 25) == []
    for name in ("double", "fixed", "both", "words"):
        stats = json.loads(server.ask("GET", f"/v2/models/{name}/stats")[2])["model_stats"][0]
        assert stats["jouleflow"]["completed"] >= 20, name


@pytest.mark.slow
def test_so_are_those_of_the_admin_listener(admin: Running) -> None:
    url = f"http://127.0.0.1:{admin.app.ports['admin']}/openapi.json"
    assert violations(url, "/repository/", 5, Authorization="Bearer root") == []


def test_every_example_is_answered(server: Running) -> None:
    document = json.loads(server.ask("GET", "/openapi.json")[2])
    for name in ("double", "fixed", "both", "words"):
        path = f"/v2/models/{name}/infer"
        examples = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["examples"]
        assert list(examples) == (["one row"] if name == "fixed" else ["one row", "two rows"])
        for example in examples.values():
            assert server.ask("POST", path, example["value"])[0] == 200
            body, length = as_binary(example["value"]["inputs"])
            assert server.ask("POST", path, body, inference_header_content_length=length)[0] == 200


def test_strings_come_back_as_they_went(server: Running) -> None:
    given = {"name": "x", "datatype": "BYTES", "shape": [1, 2]}
    status, _, text = server.ask("POST", "/v2/models/words/infer", {"inputs": [{**given, "data": ["a", "bcdé"]}]})
    assert (status, json.loads(text)["outputs"][0]["data"]) == (200, ["a", "bcdé"])
    raw = encode_strings(np.array([b"\xff", b"a"], object))
    head = json.dumps({"inputs": [{**given, "parameters": {"binary_data_size": len(raw)}}]}).encode()
    status, _, text = server.ask(
        "POST", "/v2/models/words/infer", head + raw, inference_header_content_length=str(len(head))
    )
    assert (status, "input 'x'" in json.loads(text)["error"]) == (400, True)


def test_control_is_in_the_document_of_its_own_listener_only(admin: Running) -> None:
    ours = json.loads(admin.ask("GET", "/openapi.json")[2])
    port = admin.app.ports["admin"]
    theirs = json.loads(admin.ask("GET", "/openapi.json", port=port, authorization="Bearer root")[2])
    assert not [p for p in ours["paths"] if "repository" in p]
    assert len([p for p in theirs["paths"] if "repository" in p]) == 3
    assert "security" not in ours
    assert theirs["security"] == [{"token": []}]


@pytest.mark.slow
def test_shared_memory_is_in_the_document_where_it_is_offered(sharing: Running) -> None:
    assert violations(f"http://127.0.0.1:{sharing.port}/openapi.json", "/systemsharedmemory", 10) == []
    document = json.loads(sharing.ask("GET", "/openapi.json")[2])
    assert len([p for p in document["paths"] if "systemsharedmemory" in p]) == 5
    draft = pytest.importorskip("jsonschema", reason="jsonschema is not installed").Draft202012Validator
    with SharedFile("document", X.tobytes() * 2) as file:
        register(sharing, "d", file.key, 64)
        body = {"inputs": [tensor(extent("d", 32))], "outputs": [{"name": "y", "parameters": extent("d", 32, 32)}]}
        status, answer = infer(sharing, body)
        assert status == 200
    ordinary = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
    for name in ("double", "{model}"):
        asked = document["paths"][f"/v2/models/{name}/infer"]["post"]
        components = {"components": document["components"]}
        request = draft({**asked["requestBody"]["content"]["application/json"]["schema"], **components})
        assert request.is_valid(body)
        assert request.is_valid(ordinary)
        assert not request.is_valid({"inputs": [tensor({"shared_memory_region": "d"})]})
        response = asked["responses"]["200"]["content"]["application/json"]["schema"]
        assert draft({**response, **components}).is_valid(answer)


def test_and_nowhere_else(server: Running) -> None:
    assert "systemsharedmemory" not in server.ask("GET", "/openapi.json")[2].decode()
