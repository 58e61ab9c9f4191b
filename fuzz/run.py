"""Fuzzes a loader under atheris until it finds something: `python fuzz/run.py oip_request -max_total_time=20`.

atheris is no part of `make setup`: `pip install atheris` beside jouleflow[serve]. What follows the name goes to libFuzzer; a finding is left in
the working folder as crash-..., and `python fuzz/run.py oip_request crash-...` runs it again.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["jouleflow", "tomllib", "targets"]):
    from targets import TARGETS


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: {sys.argv[0]} TARGET [what libFuzzer takes]; targets: {', '.join(TARGETS)}")
    target = TARGETS[sys.argv.pop(1)]
    arguments, folder = list(sys.argv), Path(tempfile.mkdtemp(prefix="jouleflow-fuzz-"))
    if all(a.startswith("-") for a in arguments[1:]):  # else it was given inputs
        corpus = folder / "corpus"
        corpus.mkdir()
        for k, seed in enumerate(target.seeds):
            (corpus / f"seed{k}").write_bytes(seed)
        arguments.append(str(corpus))

    def run(data: bytes) -> None:
        target.run(data, folder)

    atheris.Setup(arguments, run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
