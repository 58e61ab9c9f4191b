"""What this machine can do, and what to install for the rest."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing jouleflow can use. `remedy` is said when it is absent; `needed` marks the default path."""

    name: str
    present: bool
    detail: str
    remedy: str
    needed: bool


PACKAGES = (
    ("cross compiler", "ziglang", "pip install ziglang==0.17.0", True),
    ("CPU emulator", "unicorn", "pip install unicorn==2.1.4", True),
    ("disassembler", "capstone", "pip install capstone", True),
    ("ELF reader", "pyelftools", "pip install pyelftools", True),
    ("ONNX models", "onnx", "pip install onnx", True),
    ("quantiser", "onnxruntime", "pip install onnxruntime", True),
    ("TFLite models", "tflite", "pip install tflite", True),
    ("reports", "plotly", "pip install plotly", True),
    ("result files", "pyarrow", "pip install pyarrow", True),
    ("shepherd traces", "h5py", "pip install 'jouleflow[shepherd]'", False),
    ("Joulescope traces", "pyjls", "pip install 'jouleflow[joulescope]'", False),
    ("serving models", "httptools", "pip install 'jouleflow[serve]'", False),
    ("serving over gRPC", "grpcio", "pip install 'jouleflow[serve]'", False),
    ("interference of models, in profiles", "scikit-learn", "pip install 'jouleflow[profile]'", False),
    ("work on a Ray cluster", "ray", "pip install 'jouleflow[cluster]'", False),
    ("solar traces", "pvlib", "pip install 'jouleflow[sun]'", False),
    ("LiteRT, to check the reference", "ai-edge-litert", "pip install 'jouleflow[dev]'", False),
    ("training", "torch", "pip install 'jouleflow[train]' (pins torch==2.13.0)", False),
    ("learning policies", "torchrl", "pip install 'jouleflow[train]'", False),
)


def examine() -> list[Capability]:
    """Every capability, present or not."""
    found = [
        Capability(
            "Python 3.11 or newer", sys.version_info >= (3, 11), sys.version.split()[0], "install Python 3.11", True
        )
    ]
    for name, package, remedy, needed in PACKAGES:
        try:
            version = importlib.metadata.version(package)
            found.append(Capability(name, True, f"{package} {version}", remedy, needed))
        except importlib.metadata.PackageNotFoundError:
            found.append(Capability(name, False, "absent", remedy, needed))
    found.append(_native())
    found.append(_recorded_data())
    found.append(_compiled())
    return found


def _compiled() -> Capability:
    from jouleflow.policy import queue

    compiled = not str(queue.__file__).endswith(".py")
    detail = "by mypyc" if compiled else "plain Python, which serves small models more slowly"
    remedy = "install jouleflow itself rather than editable, where there is a C compiler: pip install '.[serve]'"
    return Capability("compiled server", compiled, detail, remedy, False)


def _native() -> Capability:
    from jouleflow.errors import JouleflowError

    remedy = "make the cache folder writable, or set JOULEFLOW_CACHE to one that is"
    try:
        from jouleflow.supply.native import cache_dir
        from jouleflow.supply.supply import supply_library

        supply_library()
        return Capability("native supply model", True, f"built in {cache_dir().name}/", remedy, True)
    except (JouleflowError, OSError) as error:
        return Capability("native supply model", False, str(error)[:100], remedy, True)


def _recorded_data() -> Capability:
    from jouleflow.trace.load import known_traces

    n = len(known_traces())
    return Capability(
        "recorded traces",
        n > 3,
        f"{n} traces known",
        "optional: set JOULEFLOW_DATA to a folder with harvest/*.csv.gz",
        False,
    )
