"""`jouleflow profile` and `jouleflow serve --dry-run`: what a box does with its models, and which load it will hold."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from jouleflow.errors import InputError, MissingCapability

if TYPE_CHECKING:
    from jouleflow.profile.serving import ServingProfile
    from jouleflow.serve.repository import ModelSpec
    from jouleflow.sim.box import ServedAs

CACHE = Path.home() / ".cache" / "jouleflow" / "profiles"


def _specs(folder: Path) -> list[ModelSpec]:
    from jouleflow.serve.repository import Repository

    repository = Repository(folder)
    if not repository.names():
        raise InputError(f"no model in {folder}: put model.onnx into a folder of its own there")
    return [repository.find(name) for name in repository.names()]


def profile_with_progress(
    folder: Path, output: Path, budget_s: float, cores: int, seed: int, cache: Path, console: Console
) -> ServingProfile:
    """Profiles a model repository with a bar; Ctrl-C leaves what was measured for the next time.

    Raises InputError for an empty folder or a model that cannot run.
    """
    import os

    import uvloop

    from jouleflow.load.requests import measure_requests
    from jouleflow.profile.serving import save_profile
    from jouleflow.runtime.colocation import Wanted, profile_models

    n_cores = cores or len(os.sched_getaffinity(0))
    wanted = [
        Wanted(
            s.name, s.path, s.settings.max_batch, s.settings.instances or max(n_cores // s.settings.threads, 1), s.settings.threads,
            s.slo_s, s.priority,
        )
        for s in _specs(folder)
    ]  # fmt: skip
    columns = (
        TextColumn("measuring"), BarColumn(), TaskProgressColumn(), TextColumn("{task.fields[cells]} cells"), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=1.0, cells=0)
        found = uvloop.run(
            profile_models(
                wanted, cache, budget_s, n_cores, seed, lambda n, frac: bar.update(task, completed=frac, cells=n)
            )
        )
    console.print("measuring what a request costs beside its model", highlight=False)
    found = measure_requests(found, folder, wanted)
    save_profile(found, output)
    return found


def print_profile(profile: ServingProfile, console: Console) -> dict[str, tuple[float, float]]:
    """Tables of a profile; returns the errors of the interference predictor on held-out sets, none when too few were measured."""
    console.print(f"{profile.machine}; energy {profile.energy}: {profile.energy_source}", highlight=False)
    table = Table("model", "rows", "latency", "rows/s", "mJ/row", "memory", "beside itself", "server/request")
    for name, model in profile.models.items():
        latencies = profile.latencies(name)
        for rows, cell in sorted(profile.alone(name).items()):
            seconds, first = latencies.of(rows), rows == 1
            twice = [c.slowdown for c in profile.cells if c.models == (name, name) and c.rows == (rows, rows)]
            table.add_row(
                name if first else "", str(rows), f"{seconds * 1e3:.2f} ms", f"{rows / seconds:.0f}", f"{cell.energy_j / rows * 1e3:.3g}",
                f"{model.memory_bytes / 2**20:.0f} MiB" if first else "", f"x {sum(twice[0]) / 2:.2f}" if twice else "",
                f"{model.front_s * 1e6:.0f} us" if first else "",
            )  # fmt: skip
    console.print(table)
    if profile.n_disturbed:
        console.print(
            f"[yellow]{profile.n_disturbed} of {len(profile.cells)} cells were measured while something else had the cores: "
            "profile again when the machine is idle (only these are measured again)[/]", highlight=False,
        )  # fmt: skip
    errors = _errors(profile, console)
    for name, (half, most) in errors.items():
        console.print(
            f"interference by {name}: error {half:.1%} median, {most:.1%} at the 95th percentile", highlight=False
        )
    return errors


def _errors(profile: ServingProfile, console: Console) -> dict[str, tuple[float, float]]:
    from jouleflow.profile.interference import held_out_errors

    try:
        return held_out_errors(profile.cells)
    except (InputError, MissingCapability) as error:
        console.print(f"no interference predictor: {error}", highlight=False)
        return {}


def parse_mix(text: str) -> dict[str, float] | None:
    """Shares by model, from NAME=SHARE,NAME=SHARE; None for none.

    Raises InputError.
    """
    if not text:
        return None
    try:
        return {name.strip(): float(share) for name, share in (part.rsplit("=", 1) for part in text.split(","))}
    except ValueError as error:
        raise InputError(f"--mix {text!r} must be NAME=SHARE,NAME=SHARE") from error


def dry_run(
    profile: ServingProfile,
    served_as: Mapping[str, ServedAs],
    policy: str,
    mix: str,
    console: Console,
    policy_net: Path | None = None,
) -> dict[str, object]:
    """Prints which load the box holds under a policy, and returns it as a record."""
    from dataclasses import asdict

    from jouleflow.profile.interference import NoInterference, fit_interference
    from jouleflow.sim.box import load_held

    interference = fit_interference(profile.cells) if len(profile.together()) >= 10 else NoInterference()
    held = load_held(profile, interference, policy, parse_mix(mix), served_as=served_as, policy_net=policy_net)
    table = Table("model", "SLO", "requests/s", "p99", "in time")
    for name, rate_hz in held.rate_hz.items():
        slo, p99 = (f"{s * 1e3:.1f} ms" for s in (profile.models[name].slo_s, held.p99_s[name]))
        table.add_row(name, slo, f"{rate_hz:.4g}", p99, f"{held.in_time_frac[name]:.2%}")
    console.print(table)
    console.print(
        f"{policy} holds {sum(held.rate_hz.values()):.4g} requests/s: cores busy {held.busy_frac:.0%}, {held.power_w:.2f} W and "
        f"{held.j_per_request * 1e3:.3g} mJ a request ({profile.energy_source}; without idle)", highlight=False,
    )  # fmt: skip
    memory = sum(m.memory_bytes for m in profile.models.values()) / 2**20
    console.print(
        f"99 % of each model's requests in time, Poisson arrivals, clients elsewhere; models take {memory:.0f} MiB",
        highlight=False,
    )
    return {"policy": policy, **asdict(held)}


def predict_load(
    folder: Path,
    profile: Path,
    policy: str,
    mix: str,
    console: Console,
    cores: int = 0,
    policy_net: Path | None = None,
) -> dict[str, object]:
    """`dry_run` of a folder, as its jouleflow.toml files have it now, with the profile that was made of it. cores: batches at once; as many
    as were profiled when 0.

    Raises InputError when the profile is of other files, misses a model, or knows nothing of so many batches at once.
    """
    import hashlib

    from jouleflow.graph.onnx_check import read_onnx
    from jouleflow.profile.serving import load_profile
    from jouleflow.sim.box import ServedAs

    known = load_profile(profile)
    specs = {s.name: s for s in _specs(folder)}
    missing = sorted(set(specs) - set(known.models))
    changed = sorted(
        n
        for n, m in known.models.items()
        if n in specs and hashlib.sha256(read_onnx(specs[n].path)).hexdigest() != m.sha256
    )
    if missing or changed:
        raise InputError(
            f"{profile} misses {missing} and has other versions of {changed}: run `jouleflow profile {folder}` again"
        )
    if not 0 <= cores <= known.n_cores:
        raise InputError(
            f"--cores {cores} must be 1 to {known.n_cores}, which {profile} was measured with: "
            f"run `jouleflow profile {folder} --cores {cores}`"
        )
    current = known.model_copy(
        update={
            "n_cores": cores or known.n_cores,
            "models": {
                n: m.model_copy(update={"slo_s": specs[n].slo_s, "priority": specs[n].priority})
                for n, m in known.models.items()
                if n in specs
            },
        }
    )
    served_as = {n: ServedAs(specs[n].delay, specs[n].settings.max_queue) for n in current.models}
    return dry_run(current, served_as, policy, mix, console, policy_net)
