"""The six networks that the serving benchmarks mix: real ones with an open batch, each with an SLO.

The SLOs are those of BCEdge's six (arXiv 2305.01519), in the order of the cost of the networks that stand in for them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setting import data_dir

SLO_MS = {
    "cifar10_cnn_dynbal": 58,
    "imagenet_mobilenet_v1_025_128": 66,
    "cifar10_resnet20": 86,
    "imagenet_mobilenet_v1_050_160": 93,
    "cifar10_resnet56": 114,
    "imagenet_mobilenet_v1_075_192": 138,
}


def make_repository(folder: Path, max_batch: int = 16, threads: int = 1) -> Path:
    """A model repository of the six."""
    for name, slo_ms in SLO_MS.items():
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(data_dir() / "models" / f"{name}.onnx", place / "model.onnx")
        (place / "jouleflow.toml").write_text(
            f"slo_ms = {slo_ms}\nmax_batch = {max_batch}\nthreads = {threads}\ninstances = 2\n"
        )
    return folder
