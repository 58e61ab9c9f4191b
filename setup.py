"""What pyproject.toml cannot say: the modules that every request goes through are compiled by mypyc when a wheel is built.

An editable install stays plain Python, so that what is edited is what runs. Without a C compiler a wheel is plain Python too.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

COMPILED = (
    "policy/admission", "policy/batch", "policy/bcedge", "policy/deeprt", "policy/dispatch", "policy/disturbance", "policy/job", "policy/learned",
    "policy/queue", "policy/turns", "policy/utility",
    "profile/interference", "profile/latencies", "profile/spread",
    "runtime/cores", "runtime/messages", "runtime/process", "runtime/tensors",
    "serve/access", "serve/api", "serve/http", "serve/http_answers", "serve/http_requests", "serve/latency", "serve/oip",
    "serve/request", "serve/served", "serve/server", "serve/tally", "serve/tensor_data",
    "load/answers", "load/client", "load/connection", "load/pacer",
    "sim/pace", "sim/serving",
)  # fmt: skip


class BuildCompiled(build_ext):
    """Makes the extensions late: most commands that ask for them do not build them."""

    def run(self) -> None:
        if self.editable_mode or not find_compiler():
            return
        from mypyc.build import mypycify
        from setuptools.errors import CompileError

        paths = [str(Path("src/jouleflow", f"{name}.py")) for name in COMPILED]
        options = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
        self.distribution.ext_modules = mypycify([*options, *paths], opt_level="3", group_name="jouleflow")
        self.initialize_options()
        self.finalize_options()
        try:
            super().run()
        except CompileError as error:
            print(f"jouleflow: the server will be plain Python, as it could not be compiled: {error}", file=sys.stderr)


def find_compiler() -> bool:
    """Whether C can be compiled: by the system's compiler, or by ziglang's where that is installed."""
    if os.environ.get("CC") or shutil.which("cc"):
        return True
    if importlib.util.find_spec("ziglang"):
        os.environ["CC"] = f"{sys.executable} -m ziglang cc"
        return True
    print("jouleflow: no C compiler found; the server will be plain Python", file=sys.stderr)
    return False


setup(ext_modules=[Extension("jouleflow.compiled", [])], cmdclass={"build_ext": BuildCompiled})
