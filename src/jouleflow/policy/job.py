"""One request on its way through a server or its simulation, and what becomes of it. Every accepted job ends exactly once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

Values = list[tuple[str, tuple[int, ...], bytes]]  # (type, shape, bytes) of each wanted output


class End(Enum):
    """How a job ended."""

    COMPLETED = "completed"
    REJECTED = "rejected"  # not taken in: the queue is full, or it could not be in time
    EXPIRED = "expired"  # its deadline passed while it waited
    CANCELLED = "cancelled"  # its sender went away while it waited
    FAILED = "failed"  # the model could not run it


@dataclass(slots=True)
class Result:
    """values are there when it completed; message says why not. retry_s: when to ask again."""

    end: End
    values: Values = field(default_factory=list)
    message: str = ""
    status: int = 200  # of HTTP
    queue_s: float = 0.0
    compute_s: float = 0.0
    retry_s: float = 0.0


@dataclass(slots=True)
class Job:
    """A request in a queue. Times on one clock. deadline_s: infinite when it has none.

    payload: what its owner needs to run it. kind: only jobs of one kind share a batch; the shapes of its inputs without rows.
    nearly_refused: it was let in, but little more before it would have been too much.
    """

    payload: Any
    size_bytes: int
    n_rows: int
    kind: tuple[tuple[int, ...], ...]
    arrived_s: float
    deadline_s: float
    priority: int
    done: Callable[[Result], None]
    cancelled: bool = False
    order: int = 0
    nearly_refused: bool = False

    @property
    def key(self) -> tuple[int, float, int]:
        """What goes first: higher priority (a smaller number), then the earlier deadline, then who came first."""
        return self.priority, self.deadline_s, self.order

    def __lt__(self, other: Job) -> bool:
        return self.key < other.key
