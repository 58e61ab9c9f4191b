"""Emulated firmware against LiteRT (delegate-free resolver), bit for bit; and KWS accuracy on all recorded inputs.

python benchmarks/bit_exact.py [--inputs 200] [--kws 1000] [--resnet20 20]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from ai_edge_litert import interpreter as litert
from numpy.typing import NDArray
from setting import MLPERF, build, data_dir, model_inputs, model_path, write_json

from jouleflow.firmware.machine import STOP_DONE, Machine
from jouleflow.graph.quantize import quantize_model
from jouleflow.graph.reference import run_reference


def run_litert(path: Path, inputs: NDArray[np.int8]) -> NDArray[np.int8]:
    resolver = litert.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    runner = litert.Interpreter(str(path), experimental_op_resolver_type=resolver)
    runner.allocate_tensors()
    source, target = runner.get_input_details()[0], runner.get_output_details()[0]
    unsigned = source["dtype"] == np.uint8
    answers = []
    for row in inputs:
        value = (row.astype(np.int16) + 128).astype(np.uint8) if unsigned else row
        runner.set_tensor(source["index"], value.reshape(source["shape"]))
        runner.invoke()
        answers.append(runner.get_tensor(target["index"]).ravel().copy())
    found = np.array(answers)
    return (found.astype(np.int16) - 128).astype(np.int8) if unsigned else found


def emulate(path: Path, board: str, inputs: NDArray[np.int8]) -> tuple[NDArray[np.int8], dict[str, object]]:
    large = inputs[0].size > 20_000  # ImageNet maps do not fit one charge of the boards' own capacitor
    built = build(path, board, "rf_mementos_01", None, 4.7e-3 if large else None)
    machine = Machine(built.firmware, inputs, checks=True)
    machine.power_on()
    start = time.time()
    if machine.run() != STOP_DONE:
        raise SystemExit(f"{path.name}: the firmware did not finish")
    figures = {
        "instructions_per_inference": int(machine.m.instructions) // len(inputs),
        "million_instructions_per_s": round(machine.m.instructions / (time.time() - start) / 1e6),
        "write_after_read_hazards": int(machine.m.n_hazards),
    }
    return machine.answers, figures


def compare(
    name: str, path: Path, board: str, inputs: NDArray[np.int8], expected: NDArray[np.int8], against: str
) -> dict[str, object]:
    answers, figures = emulate(path, board, inputs)
    difference = np.abs(answers.astype(int) - expected.reshape(len(inputs), -1))
    row = {
        "model": name,
        "board": board,
        "inputs": len(inputs),
        "against": against,
        "equal_bit_for_bit": bool(not difference.any()),
        "max_difference": int(difference.max()),
        **figures,
    }
    print(row)
    return row


def resnet20(n: int) -> tuple[Path, NDArray[np.int8]]:
    """cifar10_resnet20.onnx quantised with 100 recorded images, and n exact images as its inputs."""
    from jouleflow.graph.load import load_model

    def prepare(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        x = (images.astype(np.float32) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2)).astype(np.float32)

    calibration = prepare(np.load(data_dir() / "cifar10" / "cifar10_test_jpeg_8000.npz")["images"][-100:])
    path = Path(tempfile.mkdtemp()) / "cifar10_resnet20_int8.onnx"
    quantize_model(data_dir() / "models" / "cifar10_resnet20.onnx", calibration, path)
    model = load_model(path)
    q = model.tensors[model.inputs[0]].quantisation
    assert q is not None
    x = prepare(np.load(data_dir() / "mlperf_tiny" / "ic01_cifar10_exact_200.npz")["images"][:n])
    return path, np.clip(np.round(x / q.scale[0]) + q.zero_point[0], -128, 127).astype(np.int8).transpose(0, 2, 3, 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=200)
    parser.add_argument("--kws", type=int, default=1000)
    parser.add_argument("--resnet20", type=int, default=20)
    a = parser.parse_args()
    rows = []
    from jouleflow.graph.load import load_model

    for name in MLPERF:
        path = model_path(name)
        inputs = model_inputs(name, load_model(path), a.inputs)
        rows.append(compare(name, path, "riotee", inputs, run_litert(path, inputs), "LiteRT"))
    data = np.load(data_dir() / "mlperf_tiny" / "kws01_mfcc_int8_1000.npz")
    inputs = data["features"][: a.kws].astype(np.int8)
    answers, _ = emulate(model_path("kws"), "riotee", inputs)
    expected = run_litert(model_path("kws"), inputs)
    labels = data["labels"][: a.kws]
    rows.append(
        {
            "model": "kws accuracy",
            "inputs": len(inputs),
            "emulated_firmware": float((answers.argmax(1) == labels).mean()),
            "litert": float((expected.argmax(1) == labels).mean()),
            "equal_bit_for_bit": bool(np.array_equal(answers, expected)),
        }
    )
    print(rows[-1])
    path, inputs = resnet20(a.resnet20)
    expected = run_reference(load_model(path), inputs)
    rows.append(compare("cifar10_resnet20 int8", path, "stm32l4r5", inputs, expected, "NumPy reference"))
    for size in ("025_128", "050_160"):
        path = data_dir() / "models" / f"imagenet_mobilenet_v1_{size}_uint8.tflite"
        model = load_model(path)
        shape = model.tensors[model.inputs[0]].shape[1:]
        inputs = np.random.default_rng(0).integers(-128, 128, (4, *shape)).astype(np.int8)
        rows.append(
            compare(f"mobilenet_v1_{size} uint8", path, "stm32l4r5", inputs, run_litert(path, inputs), "LiteRT")
        )
    write_json("bit_exact", rows)


if __name__ == "__main__":
    main()
