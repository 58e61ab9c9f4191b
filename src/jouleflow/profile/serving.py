"""What a box does with its models, measured: batches alone and beside others. One kind of cell says it all: a set of batches that
run at once, each again and again. One batch alone is a set of one; two instances are the same batch twice.

The measuring itself is `runtime.colocation`; here is what it leaves, and the file it is kept in.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from jouleflow.errors import InputError
from jouleflow.profile.latencies import Latencies
from jouleflow.profile.spread import spread_of

MAX_FILE_BYTES = 64 << 20
LEAST_TIMES = 6  # that a batch was measured alone, to say how much the machine's pace varies
CAUGHT_COLD_S = 3e-3
LIGHT_FRAC, LIGHT_MAX_HZ = 0.2, 60.0  # of all cores, by all models together; of each model


@dataclass(frozen=True, slots=True, order=True)
class Batch:
    """So many rows of a model."""

    model: str
    n_rows: int


class Cell(BaseModel):
    """Batches that ran at once. alone_s: of each alone, from its order to its answer. slowdown: how many times more work each takes
    beside the others, in CPU time, so that what others had of the cores is not in it; alone and together are medians of
    the same few hundred milliseconds, so that a machine that changes its speed changes both. core_s and energy_j: CPU time
    and energy of one round of them all; the energy with what the machine spends anyhow when it was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[str, ...]
    rows: tuple[int, ...]
    alone_s: tuple[float, ...]
    slowdown: tuple[float, ...]
    core_s: Annotated[float, Field(ge=0)]
    energy_j: Annotated[float, Field(ge=0)]

    @property
    def batches(self) -> tuple[Batch, ...]:
        return tuple(Batch(m, n) for m, n in zip(self.models, self.rows, strict=True))


class ProfiledModel(BaseModel):
    """A model as it was measured. sha256: of its file. memory_bytes: resident, of its process. front_s and refusal_s: CPU seconds, in the
    server's own process, of a request that is answered at a middling load of all models, and of one that is refused among many others; client_s: of a
    client on this machine; 0 when not measured. warm_s: what is left of front_s among many others (0: all of it); wake_s: what each of its two parts,
    reading and answering, takes more when the server's loop has rested (`lost_frac`). cold_spread_s: equally likely values of what a batch takes longer when its core was idle or ran something else
    before; none when not measured. longer_s: what one row takes longer, in the mean, on a server at `light_rate_hz`, where this and
    more makes it longer; 0 when not measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    threads: int
    max_batch: int
    n_instances: int
    slo_s: float
    priority: int
    memory_bytes: int
    front_s: float = 0.0
    refusal_s: float = 0.0
    client_s: float = 0.0
    cold_spread_s: tuple[float, ...] = ()
    longer_s: float = 0.0
    warm_s: float = 0.0
    wake_s: float = 0.0

    @model_validator(mode="before")
    @classmethod
    def _as_once_written(cls, told: Any) -> Any:
        """Profiles once had the median too, as cold_s, and the first of them nothing else."""
        if not isinstance(told, dict) or "cold_s" not in told:
            return told
        now = {name: value for name, value in told.items() if name != "cold_s"}
        if not now.get("cold_spread_s"):
            now["cold_spread_s"] = (told["cold_s"],)
        return now


class Wakes(BaseModel):
    """What a request waits until its client, the server and its client again have woken up and got a core, beyond the CPU time that
    they take: spread_s[busy][idle], equally likely values; busy: cores that run batches, the last also of more; idle: of the
    parts that idle_s, rising, cuts the time into since the server's loop last did something. Empty when not measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    idle_s: tuple[float, ...] = ()
    spread_s: tuple[tuple[tuple[float, ...], ...], ...] = ()

    def spread(self, n_busy: int, idle_s: float) -> tuple[float, ...]:
        """The values when n_busy cores run batches and the loop was idle for so long."""
        if not self.spread_s:
            return ()
        return self.spread_s[min(n_busy, len(self.spread_s) - 1)][bisect_right(self.idle_s, idle_s)]


def calm_s(seconds: Sequence[float]) -> float:
    """The lower quartile, of few the least: what else a machine does can only make things take longer."""
    return sorted(seconds)[len(seconds) // 4]


def lost_frac(rest_s: float) -> float:
    """How much of what the server's loop needs has left the caches once it has rested for so long, and costs that share of wake_s."""
    return 1.0 - exp(-rest_s / CAUGHT_COLD_S)


def mean_lost_frac(rate_hz: float) -> float:
    """The mean of `lost_frac` where something comes at random moments, so often a second."""
    return 1.0 / (1.0 + rate_hz * CAUGHT_COLD_S)


def light_rate_hz(row_s: Mapping[str, float], n_cores: int) -> float:
    """Requests a second of each model that leave a box little to do. row_s: seconds of one row of each."""
    return min(LIGHT_FRAC * n_cores / sum(row_s.values()), LIGHT_MAX_HZ)


class ServingProfile(BaseModel):
    """A box and its models. energy: "measured" or "modelled", and energy_source by what. n_disturbed: cells during which something else
    had the cores, every time they were tried."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: str
    n_cores: int
    energy: str
    energy_source: str
    models: dict[str, ProfiledModel]
    cells: tuple[Cell, ...]
    n_disturbed: int = 0
    wakes: Wakes = Wakes()

    def alone(self, model: str) -> dict[int, Cell]:
        """The cells of a model alone, by rows."""
        return {c.rows[0]: c for c in self.cells if c.models == (model,)}

    def latencies(self, model: str) -> Latencies:
        """Of a model alone, made to rise with the rows. Every cell that a batch is in has measured it alone, all through the time that
        the profile took: the lower quartile of them is of the machine when nothing else held it up.

        Raises InputError when it was not measured.
        """
        seconds = {batch.n_rows: times for batch, times in self._alone_s().items() if batch.model == model}
        if not seconds:
            raise InputError(f"the profile knows {sorted(self.models)}, not {model!r}: run `jouleflow profile` with it")
        rising: list[float] = []
        for n in sorted(seconds):
            rising.append(max([calm_s(seconds[n]), *rising[-1:]]))
        return Latencies(tuple(sorted(seconds)), tuple(rising))

    def pace_spread(self) -> tuple[float, ...]:
        """How many times longer than when nothing else held the machine up batches took, all through the profile: equally likely values,
        1 at least. None when hardly any was measured often."""
        often = [times for times in self._alone_s().values() if len(times) >= LEAST_TIMES]
        return spread_of([max(s / calm_s(times), 1.0) for times in often for s in times])

    def _alone_s(self) -> dict[Batch, list[float]]:
        """What each batch took alone, of every cell that it is in."""
        found: dict[Batch, list[float]] = {}
        for cell in self.cells:
            for batch, alone_s in dict(zip(cell.batches, cell.alone_s, strict=True)).items():
                found.setdefault(batch, []).append(alone_s)
        return found

    def together(self) -> tuple[Cell, ...]:
        """The cells of more than one batch."""
        return tuple(c for c in self.cells if len(c.models) > 1)


def save_profile(profile: ServingProfile, path: Path) -> None:
    """Writes a profile, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".part")
    fresh.write_text(profile.model_dump_json(indent=1) + "\n")
    fresh.replace(path)


def with_costs(profile: ServingProfile, model: str, costs: Mapping[str, float]) -> ServingProfile:
    """The profile with more of what is known of a model: values of fields of `ProfiledModel`, by their names."""
    return profile.model_copy(
        update={"models": {**profile.models, model: profile.models[model].model_copy(update=dict(costs))}}
    )


def with_wakes(profile: ServingProfile, wakes: Wakes) -> ServingProfile:
    """The profile with what its requests wait for."""
    return profile.model_copy(update={"wakes": wakes})


def load_profile(path: Path) -> ServingProfile:
    """A profile that `jouleflow profile` wrote.

    Raises InputError when there is none, or it is not one.
    """
    if not path.is_file():
        raise InputError(f"no profile {path}: make one with `jouleflow profile FOLDER`")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise InputError(f"{path.name} has {path.stat().st_size} bytes, a profile at most {MAX_FILE_BYTES}")
    try:
        return ServingProfile.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path.name} is no profile: {where}: {first['msg']}; make a new one") from error
