"""Clients that people have: tritonclient over HTTP and gRPC, sync and asyncio, unchanged."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from jouleflow.serve.app import AppSettings
from jouleflow.serve.limits import Limits
from jouleflow.serve.proto import methods
from jouleflow.serve.settings import ServerSettings
from tests.runtime.models import affine
from tests.serve.conftest import Running, serving

http = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
rpc = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")

X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    affine(folder / "double.onnx")
    settings = AppSettings(http="127.0.0.1:0", grpc="127.0.0.1:0")
    with serving(folder, ServerSettings(limits=Limits(max_body_bytes=1 << 20)), settings) as running:
        yield running


def inputs(module, binary: bool | None = None):
    given = module.InferInput("x", list(X.shape), "FP32")
    if binary is None:
        given.set_data_from_numpy(X)
    else:
        given.set_data_from_numpy(X, binary_data=binary)
    return [given]


@pytest.mark.parametrize("binary", [True, False])
def test_http(server: Running, binary: bool) -> None:
    client = http.InferenceServerClient(f"127.0.0.1:{server.port}")
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("double")
    assert client.get_model_metadata("double")["inputs"][0]["shape"] == [-1, 4]
    wanted = [http.InferRequestedOutput("y", binary_data=binary)]
    result = client.infer("double", inputs(http, binary), outputs=wanted, request_id="a")
    np.testing.assert_array_equal(result.as_numpy("y"), 2 * X + 1)
    compressed = client.infer("double", inputs(http, binary), request_compression_algorithm="gzip")
    np.testing.assert_array_equal(compressed.as_numpy("y"), 2 * X + 1)
    assert client.get_inference_statistics("double")["model_stats"][0]["inference_stats"]["success"]["count"] >= 2


def test_http_asyncio(server: Running) -> None:
    aio = pytest.importorskip("tritonclient.http.aio")

    async def main() -> None:
        async with aio.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
            results = await asyncio.gather(*(client.infer("double", inputs(http)) for _ in range(20)))
            for result in results:
                np.testing.assert_array_equal(result.as_numpy("y"), 2 * X + 1)

    asyncio.run(main())


def test_grpc(server: Running) -> None:
    with rpc.InferenceServerClient(f"127.0.0.1:{server.app.ports['grpc']}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("double")
        assert client.get_model_metadata("double").inputs[0].shape == [-1, 4]
        result = client.infer("double", inputs(rpc), outputs=[rpc.InferRequestedOutput("y")], request_id="7")
        np.testing.assert_array_equal(result.as_numpy("y"), 2 * X + 1)
        assert result.get_response().id == "7"
        assert client.get_inference_statistics("double").model_stats[0].inference_stats.success.count >= 1
        config = client.get_model_config("double").config
        assert (config.name, config.platform, config.max_batch_size) == ("double", "onnxruntime_onnx", 32)
        assert config.instance_group[0].kind == config.instance_group[0].KIND_CPU
        assert config.instance_group[0].count >= 1
        assert config.parameters["slo_ms"].string_value == "0"


def test_grpc_control(tmp_path: Path) -> None:
    from tritonclient.utils import InferenceServerException

    affine(tmp_path / "double.onnx")
    affine(tmp_path / "other.onnx")
    settings = AppSettings(http="127.0.0.1:0", grpc="127.0.0.1:0", grpc_admin="127.0.0.1:0", admin_token="root")
    root = {"authorization": "Bearer root"}
    with (
        serving(tmp_path, settings=settings) as server,
        rpc.InferenceServerClient(f"127.0.0.1:{server.app.ports['grpc']}") as client,
        rpc.InferenceServerClient(f"127.0.0.1:{server.app.ports['grpc_admin']}") as admin,
    ):

        def states() -> dict[str, str]:
            return {m.name: m.state for m in admin.get_model_repository_index(root).models}

        assert states() == {"double": "READY", "other": "READY"}
        assert "model_repository" in admin.get_server_metadata(root).extensions
        assert "model_repository" not in client.get_server_metadata().extensions
        admin.unload_model("double", root)
        assert states() == {"double": "UNAVAILABLE", "other": "READY"}
        with pytest.raises(InferenceServerException, match="NOT_FOUND"):
            client.infer("double", inputs(rpc))
        admin.load_model("double", root)
        np.testing.assert_array_equal(client.infer("double", inputs(rpc)).as_numpy("y"), 2 * X + 1)
        for refused in (
            lambda: admin.load_model("double", root, config="{}"),
            lambda: admin.load_model("double", root, config="{}", files={"file:1/model.onnx": b"no"}),
            lambda: admin.load_model("none", root),
        ):
            with pytest.raises(InferenceServerException, match="INVALID_ARGUMENT"):
                refused()
        for forbidden in (admin.get_model_repository_index, lambda: admin.unload_model("double")):
            with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
                forbidden()
        for elsewhere in (client.get_model_repository_index, lambda: client.unload_model("double")):
            with pytest.raises(InferenceServerException, match="UNIMPLEMENTED.*--grpc-admin"):
                elsewhere()
        assert states() == {"double": "READY", "other": "READY"}


def test_messages_have_the_numbers_that_clients_know() -> None:
    from tritonclient.grpc import model_config_pb2, service_pb2

    theirs = {**service_pb2.DESCRIPTOR.message_types_by_name, **model_config_pb2.DESCRIPTOR.message_types_by_name}
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    waiting, seen = [], set()
    for name, asked, answer in methods():
        method = service.methods_by_name[name]
        assert (method.input_type.full_name, method.output_type.full_name) == (asked.DESCRIPTOR.full_name, answer.DESCRIPTOR.full_name)  # fmt: skip
        waiting += [(each.DESCRIPTOR, theirs[each.DESCRIPTOR.name]) for each in (asked, answer)]
    while waiting:
        own, their = waiting.pop()
        for field in own.fields:
            known = their.fields_by_name[field.name]
            where = f"{own.full_name}.{field.name}"
            assert (field.number, field.type, field.is_repeated) == (known.number, known.type, known.is_repeated), where
            if field.message_type is not None and field.message_type.full_name not in seen:
                seen.add(field.message_type.full_name)
                waiting.append((field.message_type, known.message_type))
            if field.enum_type is not None:
                assert field.enum_type.values_by_name.keys() == known.enum_type.values_by_name.keys(), where
                for value in field.enum_type.values:
                    assert known.enum_type.values_by_name[value.name].number == value.number, where
    assert len(seen) > 15


def test_grpc_asyncio(server: Running) -> None:
    aio = pytest.importorskip("tritonclient.grpc.aio")

    async def main() -> None:
        async with aio.InferenceServerClient(f"127.0.0.1:{server.app.ports['grpc']}") as client:
            for result in await asyncio.gather(*(client.infer("double", inputs(rpc)) for _ in range(20))):
                np.testing.assert_array_equal(result.as_numpy("y"), 2 * X + 1)

    asyncio.run(main())


def test_grpc_errors_have_the_status_that_clients_expect(server: Running) -> None:
    from tritonclient.utils import InferenceServerException

    with rpc.InferenceServerClient(f"127.0.0.1:{server.app.ports['grpc']}") as client:
        with pytest.raises(InferenceServerException, match="NOT_FOUND"):
            client.infer("none", inputs(rpc))
        wrong = rpc.InferInput("x", [2, 5], "FP32")
        wrong.set_data_from_numpy(np.zeros((2, 5), np.float32))
        with pytest.raises(InferenceServerException, match=r"INVALID_ARGUMENT.*takes \[-1, 4\]"):
            client.infer("double", [wrong])
        large = rpc.InferInput("x", [100_000, 4], "FP32")
        large.set_data_from_numpy(np.zeros((100_000, 4), np.float32))
        with pytest.raises(InferenceServerException, match="RESOURCE_EXHAUSTED"):
            client.infer("double", [large])
        np.testing.assert_array_equal(client.infer("double", inputs(rpc)).as_numpy("y"), 2 * X + 1)


def test_the_compiled_description_is_that_of_the_proto(tmp_path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools is not installed")
    from importlib.resources import files

    folder = files("jouleflow.serve.proto")
    fresh = tmp_path / "fresh.bin"
    assert protoc.main(["protoc", f"-I{folder}", f"--descriptor_set_out={fresh}", "grpc_service.proto"]) == 0
    assert fresh.read_bytes() == (folder / "grpc_service.bin").read_bytes()
