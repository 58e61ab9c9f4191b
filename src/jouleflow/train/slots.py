"""A server's own slots, read back as steps to learn from. The file is untrusted."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tensordict import TensorDict

from jouleflow.errors import InputError
from jouleflow.policy.bcedge import CHOICES, N_SEEN

MAX_SLOTS = 1_000_000
Seen = Annotated[list[float], Field(min_length=N_SEEN, max_length=N_SEEN)]


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str
    seen: Seen
    choice: Annotated[int, Field(ge=0, lt=len(CHOICES))]
    reward: Annotated[float, Field(ge=-100, le=100)]
    then: Seen


def read_slots(path: Path) -> TensorDict:
    """The slots of a log as steps [n].

    Raises InputError naming the line that is wrong, or when there is none.
    """
    lines = []
    with path.open("rb") as file:
        for k, raw in enumerate(islice(file, MAX_SLOTS), 1):
            if not raw.endswith(b"\n"):
                break  # cut off while it was written
            try:
                lines.append(_Line.model_validate_json(raw))
            except (ValidationError, json.JSONDecodeError) as error:
                raise InputError(f"{path.name}: line {k} is no slot: {str(error).splitlines()[0]}") from error
    if not lines:
        raise InputError(f"{path.name} holds no slot: serve with --policy bcedge --slot-log {path.name}")
    n, done = len(lines), torch.zeros(len(lines), 1, dtype=torch.bool)
    after = {
        "seen": torch.tensor([x.then for x in lines]), "reward": torch.tensor([[x.reward] for x in lines]), "done": done, "terminated": done,
    }  # fmt: skip
    action = torch.tensor([x.choice for x in lines])
    return TensorDict(
        {"seen": torch.tensor([x.seen for x in lines]), "action": action, "next": TensorDict(after, [n])}, [n]
    )
