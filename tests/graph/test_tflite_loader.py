"""TFLite files: read right, and whatever is wrong with one is a ModelError."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jouleflow.errors import ModelError
from jouleflow.graph.load import load_model
from jouleflow.graph.reference import run_reference
from jouleflow.graph.tflite_loader import load_tflite
from tests.graph.test_reference import run_litert
from tests.graph.tiny_tflite import tiny_tflite


def test_tiny_model_equals_litert(tmp_path: Path) -> None:
    path = tmp_path / "tiny.tflite"
    path.write_bytes(tiny_tflite())
    model = load_model(path)
    assert [layer.op for layer in model.layers] == ["conv2d", "max_pool", "dense", "softmax"]
    assert model.macs == 6 * 6 * 4 * 18 + 36 * 3
    inputs = np.random.default_rng(0).integers(-128, 128, (50, 6, 6, 2)).astype(np.int8)
    np.testing.assert_array_equal(run_reference(model, inputs).reshape(50, -1), run_litert(path, inputs))


@pytest.mark.parametrize(("name", "n_layers", "macs"), [("ic_resnet8_int8", 16, 12_501_632), ("kws_dscnn_int8", 13, 2_656_768), ("vww_mobilenetv1_025_int8", 31, 7_489_664), ("ad01_int8", 10, 264_192)])  # fmt: skip
def test_mlperf_models(name: str, n_layers: int, macs: int, data_dir: Path) -> None:
    model = load_model(data_dir / "mlperf_tiny" / "models" / f"{name}.tflite")
    assert (len(model.layers), model.macs) == (n_layers, macs)


def test_float_models_load_for_analysis(data_dir: Path) -> None:
    model = load_model(data_dir / "mlperf_tiny" / "models" / "ic_resnet8_fp32.tflite")
    assert not model.quantised
    assert model.macs == 12_501_632


def test_not_a_model() -> None:
    for data in (b"", b"TFL3", b"\0" * 100, b"x" * 4 + b"TFL3" + b"\xff" * 50):
        with pytest.raises(ModelError):
            load_tflite(data, "rubbish")


def test_every_truncation_is_refused() -> None:
    data = tiny_tflite()
    for n in range(0, len(data) - 64, 7):
        with pytest.raises(ModelError):
            load_tflite(data[:n], "short")


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6))
def test_mutations_never_escape(changes: list[tuple[int, int]]) -> None:
    data = bytearray(tiny_tflite())
    for at, value in changes:
        data[8 + at % (len(data) - 8)] = value
    try:
        model = load_tflite(bytes(data), "mutated")
    except ModelError:
        return
    from jouleflow.plan.lowering import lower

    if model.quantised:  # what loads must also lower or be refused
        try:
            lower(model)
        except ModelError:
            return


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 2**32 - 1)), min_size=1, max_size=3))
def test_word_mutations_never_escape(changes: list[tuple[int, int]]) -> None:
    data = bytearray(tiny_tflite())
    for at, value in changes:
        start = 8 + 4 * (at % ((len(data) - 12) // 4))
        data[start : start + 4] = value.to_bytes(4, "little")
    try:
        load_tflite(bytes(data), "mutated")
    except ModelError:
        return
