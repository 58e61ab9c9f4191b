"""Nothing here runs what a file or a request says: no pickles, no evaluated text, no shell, no archive that unpacks where it likes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(p for folder in ("src", "training", "benchmarks") for p in (ROOT / folder).rglob("*.py"))
MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
CALLS = {
    "eval", "exec", "builtins.eval", "builtins.exec", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "torch.load", "torch.jit.load", "torch.hub.load", "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load",
    "shutil.unpack_archive",
}  # fmt: skip
METHODS = {"extractall"}  # of an archive, whatever it is called
ONLY_FALSE = {"shell", "allow_pickle"}


def forbidden(source: str) -> Iterator[str]:
    """What a file must not do, with its line."""
    tree = ast.parse(source)
    called: dict[str, str] = {}  # what names of this file stand for
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            called |= {
                each.asname: each.name for each in node.names if each.asname
            }  # without one, a name stands for itself
        elif isinstance(node, ast.ImportFrom):
            called |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"line {node.lineno}: import of {n}" for n in names if n.partition(".")[0] in MODULES)
        elif isinstance(node, (ast.Name, ast.Attribute)):
            first, _, rest = ast.unparse(node).partition(".")
            whole = called.get(first, first) + (f".{rest}" if rest else "")
            if whole in CALLS or (isinstance(node, ast.Attribute) and node.attr in METHODS):
                yield f"line {node.lineno}: {whole}"
        elif isinstance(node, ast.keyword) and node.arg in ONLY_FALSE and ast.unparse(node.value) != "False":
            yield f"line {node.lineno}: {node.arg} that is not False"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_that_is_read_is_run(path: Path) -> None:
    assert not list(forbidden(path.read_text()))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "import os, joblib.hashing as j", "from pickle import loads", "import torch\ntorch.load('a')",
        "import torch as t\nt.load('a', weights_only=True)", "from torch import load as read\nread('a')", "import yaml\nyaml.load(a)",
        "from yaml import full_load\nfull_load(a)", "eval('1')", "list(map(eval, a))", "import builtins as b\nb.exec('a')",
        "import subprocess\nsubprocess.run('a', shell=True)", "run('a', shell=why)", "import numpy as np\nnp.load(a, allow_pickle=True)",
        "tarfile.open(a).extractall(b)", "import os\nos.system('a')", "import shutil\nshutil.unpack_archive(a)",
    ],
)  # fmt: skip
def test_what_is_forbidden_is_found(source: str) -> None:
    assert list(forbidden(source))


@pytest.mark.parametrize(
    "source",
    ["net.eval()", "import numpy as np\nnp.load(a, allow_pickle=False)", "run(['a'], shell=False)", "# pickle.load(a)", "'eval(1)'",
     "import yaml\nyaml.safe_load(a)", "import torch\ntorch.save(a, b)", "import json\njson.load(a)"],
)  # fmt: skip
def test_what_is_allowed_is_not(source: str) -> None:
    assert not list(forbidden(source))
