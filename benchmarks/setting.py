"""What the benchmarks share: the recorded data, the MLPerf Tiny models and their inputs, and JSON with the machine's name."""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jouleflow.device.device import Device
from jouleflow.firmware.build import Firmware
from jouleflow.flow import build as build_flow
from jouleflow.flow import prepare
from jouleflow.graph.model import Model
from jouleflow.plan.lowering import Lowered
from jouleflow.policy import queue
from jouleflow.profile.profile import Profile

ROOT = Path(__file__).resolve().parents[1]
OURS = str(
    Path(queue.__file__).resolve().parents[2]
)  # where this jouleflow is from: servers that are measured are the same, compiled or not
MLPERF = {
    "ad01": "ad01_int8",
    "kws": "kws_dscnn_int8",
    "resnet8": "ic_resnet8_int8",
    "vww": "vww_mobilenetv1_025_int8",
}


def data_dir() -> Path:
    """The recorded data, or exit with a clear word."""
    for candidate in (os.environ.get("JOULEFLOW_DATA"), ROOT.parent / "shared" / "data"):
        if candidate and Path(candidate).is_dir():
            return Path(candidate)
    sys.exit("recorded data not found: set JOULEFLOW_DATA or put them at ../shared/data")


def model_path(name: str) -> Path:
    return data_dir() / "mlperf_tiny" / "models" / f"{MLPERF[name]}.tflite"


def model_inputs(name: str, model: Model, n: int) -> NDArray[np.int8]:
    """n int8 inputs: recorded ones for kws and resnet8, seeded random for the others."""
    shape = model.tensors[model.inputs[0]].shape[1:]
    if name == "kws":
        return np.load(data_dir() / "mlperf_tiny" / "kws01_mfcc_int8_1000.npz")["features"][:n].astype(np.int8)
    if name == "resnet8":
        images = np.load(data_dir() / "mlperf_tiny" / "ic01_cifar10_exact_200.npz")["images"][:n]
        return (images.astype(np.int16) - 128).astype(np.int8)
    return np.random.default_rng(0).integers(-128, 128, (n, *shape)).astype(np.int8)


@dataclass(frozen=True, slots=True)
class Built:
    model: Model
    lowered: Lowered
    device: Device
    profile: Profile
    firmware: Firmware


def build(
    path: Path, board: str, trace: str, sram_bytes: int | None = None, capacitance_f: float | None = None
) -> Built:
    """Plans and builds a model for a board and a recorded trace (by name), or a bundled one."""
    recorded = data_dir() / "harvest" / f"{trace}.csv.gz"
    p = prepare(
        path, board, str(recorded) if recorded.exists() else trace, sram_bytes=sram_bytes, capacitance_f=capacitance_f
    )
    return Built(p.lowered.model, p.lowered, p.device, p.profile, build_flow(p))


def cpu_model() -> str:
    """As the system names it."""
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1] if found else "unknown"


def write_json(name: str, rows: Any) -> Path:
    """benchmarks/results/<name>.json with the machine that made it."""
    folder = ROOT / "benchmarks" / "results"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.json"
    machine = {
        "processor": f"{platform.machine()}, {cpu_model()}",
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "compiled": not queue.__file__.endswith(".py"),
    }
    path.write_text(json.dumps({"machine": machine, "results": rows}, indent=1) + "\n")
    print(f"written: benchmarks/results/{name}.json")
    return path
