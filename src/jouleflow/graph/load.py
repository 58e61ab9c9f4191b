"""Loading a model by its file, whatever the format."""

from __future__ import annotations

from pathlib import Path

from jouleflow.errors import ModelError
from jouleflow.graph.check import MAX_FILE_BYTES
from jouleflow.graph.model import Model


def load_model(path: str | Path) -> Model:
    """The model in a .tflite or .onnx file.

    Raises ModelError when the file is missing, broken, hostile, or uses what cannot run.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"no model file {path.name!r}: give the path of a .tflite or .onnx file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ModelError(f"{path.name} has {path.stat().st_size} bytes: at most {MAX_FILE_BYTES} are allowed")
    with path.open("rb") as file:
        head = file.read(8)
    if head[4:8] == b"TFL3" or path.suffix == ".tflite":
        from jouleflow.graph.tflite_loader import load_tflite

        return load_tflite(path.read_bytes(), path.name)
    if path.suffix == ".onnx":
        from jouleflow.graph.onnx_loader import load_onnx

        return load_onnx(path)
    raise ModelError(f"{path.name} is neither TFLite nor ONNX: its name must end in .tflite or .onnx")
