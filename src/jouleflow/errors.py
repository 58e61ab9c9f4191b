"""The errors a caller can react to, drawn as one tree.

JouleflowError
├── InputError           something given to us is wrong: the command line exits 2
│   ├── ModelError       a model file is broken, hostile or uses what we cannot run
│   ├── DeviceError      a board, system or capacitor description is wrong or unknown
│   ├── TraceError       a harvest trace is wrong or unknown
│   └── PlanError        a plan does not fit its model
├── Infeasible           nothing meets the goal: the command line exits 1, `nearest` says what would
├── MissingCapability    a tool or library is absent: `jouleflow doctor` says what to do
└── EmulationError       the emulated firmware did what firmware must not do
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class JouleflowError(Exception):
    """Base of every error that jouleflow raises on purpose; its text states the remedy."""


class InputError(JouleflowError):
    """Something given to us is wrong."""


class ModelError(InputError):
    """A model file is broken, hostile, or uses what we cannot run."""


class DeviceError(InputError):
    """A board or system description is wrong or unknown."""


class TraceError(InputError):
    """A trace is wrong or unknown."""


class PlanError(InputError):
    """A plan does not fit its model."""


class Infeasible(JouleflowError):
    """Nothing meets the goal. `nearest` names the closest setting that would, if one was found."""

    def __init__(self, message: str, nearest: str | None = None) -> None:
        super().__init__(message if nearest is None else f"{message}; nearest that works: {nearest}")
        self.nearest = nearest


class MissingCapability(JouleflowError):
    """A tool or library is absent; the text says how to get it."""


class EmulationError(JouleflowError):
    """The emulated firmware faulted, hung, or reported an error code."""


def near_matches(name: str, known: Iterable[str]) -> str:
    """A sentence that lists the known names nearest to `name`, for error messages."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}? known: {', '.join(names)}"
    return f"known: {', '.join(names)}"
