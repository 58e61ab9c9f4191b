"""The nouns of the world: `Trace` (a quantity over time) and `Scenario` (the traces of one experiment)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jouleflow.errors import TraceError


@dataclass(frozen=True, slots=True)
class Trace:
    """A quantity over time: value[k] holds from time_s[k] until time_s[k + 1] (piecewise constant).

    time_s starts at 0 and increases; duration_s ends the last sample. `synthetic` marks generated data.
    Raises TraceError for NaN, unsorted times, lengths that differ, or a negative power.
    """

    name: str
    unit: str  # W, bit/s, 1/s, ...
    time_s: NDArray[np.float64]
    value: NDArray[np.float64]
    duration_s: float
    source: str = ""
    synthetic: bool = False

    def __post_init__(self) -> None:
        time_s, value = self.time_s, self.value
        if time_s.ndim != 1 or time_s.shape != value.shape or time_s.size == 0:
            raise TraceError(
                f"trace {self.name}: time_s and value must be 1-D, alike and not empty, got {time_s.shape}, {value.shape}"
            )
        for column, name in ((time_s, "time_s"), (value, "value")):
            bad = np.flatnonzero(~np.isfinite(column))
            if bad.size:
                raise TraceError(
                    f"trace {self.name}: {name}[{bad[0]}]={column[bad[0]]} must be finite: repair or drop the row"
                )
        if time_s[0] != 0:
            raise TraceError(f"trace {self.name}: time_s[0]={time_s[0]} must be 0: subtract the first time")
        steps = np.flatnonzero(np.diff(time_s) <= 0)
        if steps.size:
            k = int(steps[0])
            raise TraceError(
                f"trace {self.name}: time_s[{k + 1}]={time_s[k + 1]} must exceed time_s[{k}]={time_s[k]}: sort the rows and drop repeats"
            )
        if not (np.isfinite(self.duration_s) and self.duration_s > time_s[-1]):
            raise TraceError(f"trace {self.name}: duration_s={self.duration_s} must exceed the last time {time_s[-1]}")
        negative = np.flatnonzero(value < 0)
        if negative.size:
            k = int(negative[0])
            raise TraceError(
                f"trace {self.name}: value[{k}]={value[k]} {self.unit} must be >= 0: clip or fix the sensor offset"
            )

    def at(self, time_s: float) -> float:
        """The value at a time; the trace repeats after duration_s."""
        k = int(np.searchsorted(self.time_s, time_s % self.duration_s, side="right")) - 1
        return float(self.value[k])

    @property
    def mean(self) -> float:
        """Time-weighted mean value."""
        widths = np.diff(np.append(self.time_s, self.duration_s))
        return float(np.dot(widths, self.value) / self.duration_s)


@dataclass(frozen=True, slots=True)
class Scenario:
    """The world of one experiment. The harvest trace starts at phase_s and repeats until duration_s."""

    harvest: Trace
    duration_s: float = 86400.0
    phase_s: float = 0.0
    seed: int = 0
