"""Clients that people have: tritonclient over HTTP and gRPC, sync and asyncio, unchanged."""

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from jouleflow.serve.app import AppSettings
from jouleflow.serve.limits import Limits
from jouleflow.serve.server import ServerSettings
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
