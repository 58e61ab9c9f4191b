"""The policies by name, and how one is made for a model."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from jouleflow.errors import InputError, near_matches
from jouleflow.policy.batch import Aimd, BatchPolicy, DeepRt, Delay, Fixed, Table
from jouleflow.policy.bcedge import BcEdge, Slot, load_choose

PLAIN: dict[str, Callable[[], BatchPolicy]] = {
    "delay": Delay,
    "fixed": Fixed,
    "aimd": Aimd,
    "deeprt": DeepRt,
    "table": Table,
}
MAX_ENERGY_WEIGHT = 0.5  # that the net which comes with jouleflow was trained with
POLICIES = (*PLAIN, "bcedge")


def check_policy(name: str) -> None:
    """Raises InputError listing the policies for an unknown name."""
    if name not in POLICIES:
        raise InputError(f"unknown policy {name!r}: {near_matches(name, POLICIES)}")


def policy_maker(
    name: str,
    net: Path | None = None,
    record: Callable[[str, Slot], None] | None = None,
    energy_weight: float = 0.0,
) -> Callable[[], BatchPolicy]:
    """Makes a fresh policy for each model. net: of `bcedge`, as `jouleflow train` writes it; the one that comes with jouleflow when
    None. record: hears of the slots of `bcedge`. energy_weight: how much `bcedge` minds core seconds, from 0 to MAX_ENERGY_WEIGHT.

    Raises InputError for an unknown policy, a net that cannot be read, or an energy weight out of range or for another policy.
    """
    check_policy(name)
    if not 0 <= energy_weight <= MAX_ENERGY_WEIGHT:
        raise InputError(
            f"energy weight {energy_weight:g}: from 0 (latency alone) to {MAX_ENERGY_WEIGHT:g}, as the net was trained"
        )
    if energy_weight and name != "bcedge":
        raise InputError(f"policy {name!r} knows no energy weight: take bcedge, or leave it out")
    if name in PLAIN:
        return PLAIN[name]
    if net is not None and not net.is_file():
        raise InputError(f"no net {net}: make one with `jouleflow train bcedge`")
    choose = load_choose(
        net.read_bytes() if net else (files("jouleflow") / "policy" / "data" / "bcedge.onnx").read_bytes()
    )
    return lambda: BcEdge(choose, energy_weight, record=record)


def make_policy(name: str) -> BatchPolicy:
    """A fresh policy for one model.

    Raises InputError as `policy_maker`.
    """
    return policy_maker(name)()
