"""Model inputs from .npz files, which are untrusted; and answers in words."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jouleflow.errors import InputError
from jouleflow.graph.model import Model

MAX_BYTES = 1 << 30


def load_inputs(path: Path, model: Model) -> NDArray[np.int8]:
    """int8 inputs [n, values] for a model: int8 as they are, uint8 minus 128, floats quantised with the input's scale.

    The file holds one array of the model's shape, inferences first. Raises InputError saying what is expected.
    """
    tensor = model.tensors[model.inputs[0]]
    want = f"one array of shape (n, {', '.join(map(str, tensor.shape[1:]))}), int8, uint8 or float"
    if not path.is_file():
        raise InputError(f"no input file {path.name!r}: give an .npz with {want}")
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(info.file_size for info in archive.infolist())
        if total > MAX_BYTES:
            raise InputError(f"{path.name} unpacks to {total} bytes: at most {MAX_BYTES} are allowed")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, ValueError, OSError, KeyError, EOFError) as error:
        raise InputError(f"{path.name} is not a readable .npz: {error}; write it with numpy.savez") from error
    fitting = [v for v in arrays.values() if v.ndim > 1 and len(v) and v[0].size == tensor.n_elements]
    if len(fitting) != 1:
        listed = ", ".join(f"{name} {v.dtype} {v.shape}" for name, v in list(arrays.items())[:8])
        raise InputError(f"{path.name} holds {listed or 'nothing'}: the model takes {want}")
    values = fitting[0]
    if values.dtype == np.int8:
        return np.asarray(values.reshape(len(values), -1), np.int8)
    if values.dtype == np.uint8:
        return np.asarray(values.astype(np.int16) - 128, np.int8).reshape(len(values), -1)
    if not np.issubdtype(values.dtype, np.floating):
        raise InputError(f"{path.name} is {values.dtype}: give int8, uint8 (128 is subtracted) or float")
    if not np.isfinite(values).all():
        raise InputError(f"{path.name} holds NaN or infinity: inputs must be finite")
    q = tensor.quantisation
    assert q is not None
    scaled = np.round(values / float(q.scale.flat[0])) + int(q.zero_point.flat[0])
    return np.asarray(np.clip(scaled, -128, 127), np.int8).reshape(len(values), -1)


def random_inputs(model: Model, n: int, seed: int) -> NDArray[np.int8]:
    """n random int8 inputs."""
    size = model.tensors[model.inputs[0]].n_elements
    return np.random.default_rng(seed).integers(-128, 128, (n, size)).astype(np.int8)


def words(answers: NDArray[np.int8]) -> tuple[str, ...]:
    """One line per inference: the winning class when there are a few, otherwise the first values."""
    lines = []
    for row in answers[:200]:
        if 2 <= row.size <= 4096:
            lines.append(f"class {int(row.argmax())} (score {int(row.max())})")
        else:
            lines.append("values " + ", ".join(str(int(v)) for v in row[:6]))
    return tuple(lines)
