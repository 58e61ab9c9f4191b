"""kserve's clients, REST and gRPC, unchanged."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from jouleflow.serve.app import AppSettings
from tests.runtime.models import affine
from tests.serve.conftest import Running, serving

kserve = pytest.importorskip("kserve", reason="kserve is not installed: pip install kserve")

X = np.arange(8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    affine(folder / "double.onnx")
    with serving(folder, settings=AppSettings(http="127.0.0.1:0", grpc="127.0.0.1:0")) as running:
        yield running


def asked(binary: bool, model: str = "double") -> Any:
    given = kserve.InferInput("x", list(X.shape), "FP32")
    given.set_data_from_numpy(X, binary_data=binary)
    wanted = kserve.protocol.infer_type.RequestedOutput("y", parameters={"binary_data": binary})
    return kserve.InferRequest(model, [given], request_id="7", request_outputs=[wanted])


def assert_doubled(answer: Any) -> None:
    assert (answer.id, answer.model_name) == ("7", "double")
    np.testing.assert_array_equal(answer.outputs[0].as_numpy(), 2 * X + 1)


def test_rest(server: Running) -> None:
    base = f"http://127.0.0.1:{server.port}"

    async def main() -> None:
        client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2"))
        assert await client.is_server_live(base)
        assert await client.is_server_ready(base)
        assert await client.is_model_ready(base, "double")
        for binary in (False, True):
            assert_doubled(await client.infer(base, asked(binary), model_name="double"))
        with pytest.raises(Exception, match="no model 'none' in service.*404"):
            await client.infer(base, asked(True), model_name="none")
        await client.close()

    asyncio.run(main())


def test_grpc(server: Running) -> None:
    async def main() -> None:
        client = kserve.InferenceGRPCClient(f"127.0.0.1:{server.app.ports['grpc']}")
        assert await client.is_server_live()
        assert await client.is_server_ready()
        assert await client.is_model_ready("double")
        for binary in (False, True):
            assert_doubled(await client.infer(asked(binary)))
        with pytest.raises(Exception, match="no model 'none' in service"):
            await client.infer(asked(True, "none"))
        await client.close()

    asyncio.run(main())
