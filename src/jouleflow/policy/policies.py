"""The policies by name, and how one is made for a model."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Protocol

from jouleflow.errors import InputError, near_matches
from jouleflow.policy.batch import AT_ONCE, Aimd, BatchPolicy, Delay, Fixed, Table
from jouleflow.policy.bcedge import BcEdge, Slot, load_choose
from jouleflow.policy.deeprt import DeepRt

PLAIN: dict[str, Callable[[], BatchPolicy]] = {
    "delay": Delay,
    "fixed": Fixed,
    "aimd": Aimd,
    "deeprt": DeepRt,
    "table": Table,
}
POLICIES = (*PLAIN, "bcedge")


class MakePolicy(Protocol):
    """Makes a fresh policy for a model. delay: what `delay` is to do for it; the others need nothing."""

    def __call__(self, delay: Delay = AT_ONCE) -> BatchPolicy: ...


def check_policy(name: str) -> None:
    """Raises InputError listing the policies for an unknown name."""
    if name not in POLICIES:
        raise InputError(f"unknown policy {name!r}: {near_matches(name, POLICIES)}")


def policy_maker(
    name: str,
    net: Path | None = None,
    record: Callable[[str, Slot], None] | None = None,
) -> MakePolicy:
    """Makes a fresh policy for each model. net: of `bcedge`, as `jouleflow train` writes it; the one that comes with jouleflow when
    None. record: hears of the slots of `bcedge`.

    Raises InputError for an unknown policy or a net that cannot be read.
    """
    check_policy(name)
    if name in PLAIN:
        return lambda delay=AT_ONCE: delay if name == "delay" else PLAIN[name]()
    if net is not None and not net.is_file():
        raise InputError(f"no net {net}: make one with `jouleflow train bcedge`")
    choose = load_choose(
        net.read_bytes() if net else (files("jouleflow") / "policy" / "data" / "bcedge.onnx").read_bytes()
    )
    return lambda delay=AT_ONCE: BcEdge(choose, record=record)


def make_policy(name: str) -> BatchPolicy:
    """A fresh policy for one model.

    Raises InputError as `policy_maker`.
    """
    return policy_maker(name)()
