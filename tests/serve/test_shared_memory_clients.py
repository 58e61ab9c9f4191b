"""tritonclient's shared memory, unchanged, over HTTP and gRPC."""

from __future__ import annotations

import importlib.resources
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from jouleflow.serve.app import AppSettings
from jouleflow.serve.limits import Limits
from jouleflow.serve.settings import ServerSettings
from tests.runtime.models import affine
from tests.serve.conftest import Running, serving
from tests.serve.shared_files import SharedFile, X

http = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed")
rpc = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed")
LIMITS = Limits(max_body_bytes=1 << 20)


@pytest.fixture(scope="module")
def shm() -> Iterator[Any]:
    """tritonclient.utils.shared_memory, which asks a part of setuptools that newer ones do not have where its library is."""
    part = types.ModuleType("pkg_resources")
    part.resource_filename = lambda package, name: str(importlib.resources.files(package) / name)  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("pkg_resources") is None:
            patch.setitem(sys.modules, "pkg_resources", part)
        yield pytest.importorskip("tritonclient.utils.shared_memory")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("models")
    affine(folder / "double.onnx")
    settings = AppSettings(http="127.0.0.1:0", grpc="127.0.0.1:0")
    with serving(folder, ServerSettings(limits=LIMITS, shared_memory=True), settings) as running:
        yield running


def client_of(module: Any, server: Running) -> Any:
    port = server.port if module is http else server.app.ports["grpc"]
    return module.InferenceServerClient(f"127.0.0.1:{port}")


@pytest.mark.parametrize("module", [http, rpc], ids=["http", "grpc"])
def test_inputs_and_outputs(server: Running, shm: Any, module: Any) -> None:
    client = client_of(module, server)
    client.unregister_system_shared_memory()
    key = f"/jouleflow_triton_{module.__name__[-4:]}"
    handle = shm.create_shared_memory_region("data", key, 2 * X.nbytes)
    try:
        shm.set_shared_memory_region(handle, [X])
        client.register_system_shared_memory("data", key, 2 * X.nbytes)
        status = client.get_system_shared_memory_status("data")
        region = status[0] if module is http else status.regions["data"]
        assert (region["byte_size"] if module is http else region.byte_size) == 2 * X.nbytes
        given = module.InferInput("x", list(X.shape), "FP32")
        given.set_shared_memory("data", X.nbytes)
        wanted = module.InferRequestedOutput("y")
        plain = client.infer("double", [given], outputs=[wanted])
        np.testing.assert_array_equal(plain.as_numpy("y"), 2 * X + 1)
        wanted.set_shared_memory("data", X.nbytes, offset=X.nbytes)
        for _ in range(3):
            result = client.infer("double", [given], outputs=[wanted])
            output = result.get_output("y")
            assert (output["shape"] if module is http else list(output.shape)) == [2, 4]
            y = shm.get_contents_as_numpy(handle, np.float32, [2, 4], offset=X.nbytes)
            np.testing.assert_array_equal(y, 2 * X + 1)
            shm.set_shared_memory_region(handle, [np.zeros_like(X)], offset=X.nbytes)
        client.unregister_system_shared_memory("data")
        with pytest.raises(Exception, match="'data' is not registered"):
            client.infer("double", [given])
        given.set_data_from_numpy(X)
        np.testing.assert_array_equal(client.infer("double", [given]).as_numpy("y"), 2 * X + 1)
    finally:
        shm.destroy_shared_memory_region(handle)


@pytest.mark.parametrize("module", [http, rpc], ids=["http", "grpc"])
def test_errors_are_told(server: Running, shm: Any, module: Any) -> None:
    client = client_of(module, server)
    client.unregister_system_shared_memory()
    assert len(client.get_system_shared_memory_status() if module is http else client.get_system_shared_memory_status().regions) == 0  # fmt: skip
    with pytest.raises(Exception, match="no shared memory region 'none'"):
        client.get_system_shared_memory_status("none")
    with pytest.raises(Exception, match="must be a name under"):
        client.register_system_shared_memory("a", "/../etc/passwd", 8)
    with pytest.raises(Exception, match="cannot be opened"):
        client.register_system_shared_memory("a", "/jouleflow_nothing_there", 8)
    with SharedFile("twice", bytes(32)) as file:
        client.register_system_shared_memory("a", file.key, 32)
        with pytest.raises(Exception, match="is registered already"):
            client.register_system_shared_memory("a", file.key, 32)
        given = module.InferInput("x", [3, 4], "FP32")
        given.set_shared_memory("a", 48)
        with pytest.raises(Exception, match="go past the 32 bytes"):
            client.infer("double", [given])
        given = module.InferInput("x", [1, 4], "FP32")
        given.set_shared_memory("a", 20)
        with pytest.raises(Exception, match=r"20 bytes, but \[1, 4\] of FP32 is 16"):
            client.infer("double", [given])
    client.unregister_system_shared_memory()
