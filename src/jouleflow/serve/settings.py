"""What a server is told once. Data alone, and never compiled: a node of a cluster is sent it pickled, and what is compiled and frozen
cannot be made again from that."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from jouleflow.serve.limits import Limits


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """policy: of every model; policy_net: of `bcedge`, where it is not the one that comes with jouleflow. n_cores: batches that run at
    once, over all models; 0 is one a CPU. slot_log: where `bcedge` writes what it saw, chose and gained. shared_memory: whether clients may
    register regions of it."""

    policy: str = "table"
    policy_net: Path | None = None
    n_cores: int = 0
    slot_log: Path | None = None
    limits: Limits = field(default_factory=Limits)
    shared_memory: bool = False
