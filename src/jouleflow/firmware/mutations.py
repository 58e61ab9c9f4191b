"""The tester tested: known mistakes planted into the C, each of which the crash tests must catch."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from jouleflow.errors import JouleflowError
from jouleflow.firmware.build import c_dir


@dataclass(frozen=True, slots=True)
class Mutation:
    """One mistake: in `file`, `old` becomes `new`."""

    name: str
    file: str
    old: str
    new: str


MUTATIONS = (
    Mutation(
        "commit before data",
        "engine/engine.c",
        """                if ((err = flush(net, here, &p->data))) return err;
                p->op = (uint16_t)here.op, p->tile = (uint16_t)here.tile;
                if ((err = progress_commit(p))) return err;
""",
        """                p->op = (uint16_t)here.op, p->tile = (uint16_t)here.tile;
                if ((err = progress_commit(p))) return err;
                if ((err = flush(net, here, &p->data))) return err;
""",
    ),
    Mutation("no checksum", "engine/progress.c", "return p->crc == checksum(p) && ", "return "),
    Mutation("one slot", "engine/progress.c", "(now->count & 1) * PROGRESS_SLOT_BYTES", "0"),
    Mutation(
        "stale SRAM read",
        "engine/engine.c",
        "        int err = port_nvm_read(b->nvm, net->arena + b->sram, size);\n        if (err) return err;\n        extend_check",
        "        extend_check",
    ),
    Mutation(
        "missing model hash",
        "engine/progress.c",
        "p->hash[0] == net->hash[0] &&\n           p->hash[1] == net->hash[1] && ",
        "",
    ),
    Mutation(
        "flush only the newest buffer",
        "engine/engine.c",
        "        if (done < to) {\n",
        "        if (done < to && i + 1 == n) {\n",
    ),
)


def mutated_c(mutation: Mutation, folder: Path) -> Path:
    """A copy of the C sources with the mistake in it.

    Raises JouleflowError when the text to change is not there, so that a mutation cannot silently stop mutating.
    """
    target = folder / "c"
    shutil.copytree(c_dir(), target)
    path = target / mutation.file
    text = path.read_text()
    if text.count(mutation.old) != 1:
        raise JouleflowError(
            f"mutation {mutation.name!r}: its text stands {text.count(mutation.old)} times in {mutation.file}"
        )
    path.write_text(text.replace(mutation.old, mutation.new))
    return target
