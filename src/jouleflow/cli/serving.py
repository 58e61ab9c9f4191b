"""The commands around the server: serve, profile, train, load, demo-serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jouleflow.cli.terminal import (
    Duration,
    Json,
    Out,
    Seed,
    app,
    emit,
    err,
    out,
    quantity,
)
from jouleflow.errors import InputError, MissingCapability

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PROFILE = Path("jouleflow-out/profile.json")
ProfileFile = Annotated[Path, typer.Option("--profile", help="The file that `jouleflow profile` writes.")]


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(help="The models: a folder each, or bare .onnx files.")],
    http: Annotated[str, typer.Option(help="Address and port.")] = "127.0.0.1:8000",
    grpc: Annotated[
        str | None, typer.Option(help="Address and port for gRPC; empty: none.  [default: 127.0.0.1:8001]")
    ] = None,
    policy: Annotated[
        str, typer.Option(help="Who decides on batches: table, bcedge, delay, fixed, aimd, deeprt.")
    ] = "table",
    policy_net: Annotated[Path | None, typer.Option(help="The net of bcedge, as `jouleflow train` writes it.")] = None,
    slot_log: Annotated[
        Path | None, typer.Option(help="Where bcedge writes what it saw and gained, to learn from.")
    ] = None,
    cores: Annotated[int, typer.Option(help="Batches that run at once; one a CPU by default.")] = 0,
    limits: Annotated[
        Path | None, typer.Option(help="A TOML file of what the server takes at most, by the names in serve/limits.py.")
    ] = None,
    admin: Annotated[str, typer.Option(help="A listener that may load and unload, with JOULEFLOW_ADMIN_TOKEN.")] = "",
    grpc_admin: Annotated[str, typer.Option(help="The same over gRPC, such as 127.0.0.1:8003.")] = "",
    allow_host: Annotated[list[str] | None, typer.Option(help="Another name of this server.")] = None,
    core_power: Annotated[str, typer.Option(help="Power of a busy core, where no meter is found.")] = "5W",
    insecure: Annotated[bool, typer.Option(help="Listen beyond this machine without JOULEFLOW_TOKEN.")] = False,
    shared_memory: Annotated[
        bool, typer.Option("--shared-memory", help="Clients of this machine may register regions of shared memory.")
    ] = False,
    ray: Annotated[bool, typer.Option("--ray", help="On the nodes of a Ray cluster, HTTP only.")] = False,
    ray_address: Annotated[
        str, typer.Option(help="Its address; auto for the one here, local for a new one.")
    ] = "local",
    nodes: Annotated[int, typer.Option(min=0, help="How many of its nodes; 0 for all that there are now.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say which load this box will hold, from --profile.")
    ] = False,
    profile_file: ProfileFile = PROFILE,
    mix: Annotated[str, typer.Option(help="With --dry-run: shares of the load, such as a=2,b=1.")] = "",
    as_json: Json = False,
) -> None:
    """Serve models over the Open Inference Protocol until told to stop."""
    _need_serving()
    if dry_run:
        from jouleflow.cli.profiling import predict_load

        held = predict_load(folder, profile_file, policy, mix, err if as_json else out, cores, policy_net)
        emit({"holds": [held]}, as_json)
        return
    import os

    from jouleflow.serve.app import AppSettings, run_server
    from jouleflow.serve.limits import Limits, load_limits
    from jouleflow.serve.settings import ServerSettings

    most = Limits() if limits is None else load_limits(limits)

    ray = ray or ray_address != "local" or nodes > 0
    settings = AppSettings(
        http, grpc if grpc is not None else "" if ray else "127.0.0.1:8001", admin, grpc_admin, tuple(allow_host or ()), os.environ.get("JOULEFLOW_TOKEN", ""),
        os.environ.get("JOULEFLOW_ADMIN_TOKEN", ""), insecure, quantity(core_power, "W") or 0.0,
    )  # fmt: skip

    def note(text: str) -> None:
        err.print(text, highlight=False, markup=False)

    if ray:
        from jouleflow.serve.cluster import ClusterSettings, run_cluster

        if shared_memory:
            raise InputError("--shared-memory is not offered with --ray: a region is of one machine")
        if policy_net is not None or slot_log is not None:
            raise InputError(
                "--policy-net and --slot-log are not offered with --ray: its nodes take what comes with jouleflow"
            )
        run_cluster(
            folder,
            ServerSettings(policy, None, cores, limits=most),
            settings,
            ClusterSettings(ray_address, nodes),
            note,
        )
        return
    run_server(folder, ServerSettings(policy, policy_net, cores, slot_log, most, shared_memory), settings)


@app.command()
def profile(
    folder: Annotated[Path, typer.Argument(help="The models: a folder each, or bare .onnx files.")],
    output: ProfileFile = PROFILE,
    budget: Annotated[str, typer.Option(help="For random sets of batches; batches alone come on top.")] = "2min",
    cores: Annotated[int, typer.Option(help="Batches that run at once; one a CPU by default.")] = 0,
    seed: Seed = 0,
    cache: Annotated[Path | None, typer.Option(help="Where measured cells are kept.")] = None,
    as_json: Json = False,
) -> None:
    """Measure models on this box: latency, memory and energy by batch, by instances, and beside each other. Goes on where it stopped."""
    _need_serving()
    from jouleflow.cli.profiling import CACHE, print_profile, profile_with_progress

    found = profile_with_progress(folder, output, quantity(budget, "s") or 0.0, cores, seed, cache or CACHE, err)
    errors = print_profile(found, err if as_json else out)
    emit({"profile": str(output), "cells": len(found.cells), "interference_errors": errors}, as_json)
    if not as_json:
        out.print(f"profile: {output}")


@app.command()
def load(
    url: Annotated[str, typer.Argument(help="The server, such as http://127.0.0.1:8000.")],
    model: Annotated[str, typer.Argument(help="The model.")],
    rate: Annotated[
        float, typer.Option(min=0.0, help="Requests a second; 0: as recorded, or --in-flight of them kept in flight.")
    ] = 0.0,
    arrivals: Annotated[
        str | None,
        typer.Option(help="steady, poisson, bursty, diurnal, or a recorded .csv.  [default with --rate: poisson]"),
    ] = None,
    in_flight: Annotated[int, typer.Option(min=1, help="Requests in flight when there is no --rate.")] = 16,
    duration: Duration = "10s",
    rows: Annotated[int, typer.Option(min=1, help="Rows of each request.")] = 1,
    slo: Annotated[str, typer.Option(help="What counts as in time, such as 50ms; the model's own by default.")] = "",
    shared_memory: Annotated[
        bool, typer.Option("--shared-memory", help="Leave inputs in shared memory; the server must offer it.")
    ] = False,
    timeout: Annotated[str, typer.Option(help="Deadline that each request carries, such as 50ms.")] = "",
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Put load on an Open Inference Protocol server: throughput, percentiles, queue and compute, goodput, energy."""
    _need_serving()
    import os

    from jouleflow.load.report import load_report, report_lines
    from jouleflow.load.run import Load

    seconds = quantity(duration, "s") or 10.0
    times = _arrivals(arrivals, rate, seconds, seed)
    slo_s, timeout_s = (quantity(t, "s") or 0.0 if t else 0.0 for t in (slo, timeout))
    asked = Load(
        url.rstrip("/"),
        model,
        times,
        in_flight,
        seconds,
        rows,
        slo_s,
        timeout_s,
        os.environ.get("JOULEFLOW_TOKEN", ""),
        shared_memory,
    )
    done = load_report(asked)
    emit(done, as_json)
    if not as_json:
        for what, how_much in report_lines(done):
            out.print(f"{what:<12} {how_much}", highlight=False, soft_wrap=True)


def _arrivals(kind: str | None, rate_hz: float, duration_s: float, seed: int) -> NDArray[np.float64] | None:
    """When requests are sent; None for a closed loop, which is what neither --rate nor --arrivals asks for.

    Raises InputError for arrivals that are made up and have no rate, or a damaged file.
    """
    import numpy as np

    from jouleflow.trace.arrivals import load_arrivals, make_arrivals

    random = np.random.default_rng(seed)
    if kind is not None and kind.endswith((".csv", ".csv.gz")):
        return load_arrivals(Path(kind), random, rate_hz, duration_s)
    if rate_hz > 0:
        return make_arrivals(kind or "poisson", rate_hz, duration_s, random)
    if kind is not None:
        raise InputError(
            f"--arrivals {kind} needs --rate, requests a second; without both, --in-flight are kept in flight"
        )
    return None


@app.command()
def train(
    what: Annotated[str, typer.Argument(help="The policy: bcedge.")] = "bcedge",
    algorithm: Annotated[str, typer.Option(help="sac, ddqn or ppo.")] = "sac",
    profile_file: Annotated[
        Path | None,
        typer.Option(
            "--profile", help="Learn on this box, as `jouleflow profile` measured it; boxes are made up otherwise."
        ),
    ] = None,
    log: Annotated[Path | None, typer.Option(help="Learn from what a server wrote with --slot-log.")] = None,
    start_from: Annotated[Path | None, typer.Option(help="A trained net to go on from.")] = None,
    minutes: Annotated[float, typer.Option(min=0.01, help="At most.")] = 15.0,
    rounds: Annotated[int, typer.Option(min=1, help="At most; 512 slots each.")] = 150,
    energy_weight: Annotated[float, typer.Option(min=0.0, max=2.0, help="How much energy counts, at most.")] = 0.0,
    output: Out = Path("jouleflow-out/bcedge"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train the net of the policy bcedge on simulated boxes, or from a server's log; Ctrl-C keeps what was learned."""
    from jouleflow.cli.training import train_with_progress

    record = train_with_progress(
        what, algorithm, profile_file, log, start_from, minutes, rounds, energy_weight, output, seed, err
    )
    emit({k: v for k, v in record.items() if k != "curve"}, as_json)
    if not as_json:
        scores = ", ".join(f"{name} {value:.3f}" for name, value in record["scores"].items())
        out.print(f"mean reward of a slot on unseen episodes: {scores}", highlight=False)
        out.print(f"net: [bold]{output / 'bcedge.onnx'}[/]   how: {output / 'training.json'}")


@app.command("demo-serve")
def demo_serve(output: Out = Path("jouleflow-out/serve"), seed: Seed = 0, as_json: Json = False) -> None:
    """Serve three models under twenty seconds of bursty load: goodput, latency, energy, and the live page."""
    _need_serving()
    from rich.table import Table

    from jouleflow.demo_serve.demo import SETTINGS, run_demo

    report = run_demo(output, seed, lambda text: err.print(text, highlight=False))
    if as_json:
        print(json.dumps({k: v for k, v in report.items() if k != "live"}, indent=1))
        return
    table = Table("model", "SLO", "requests", "in time", "refused", "p50", "p99", "answers/s")
    for name, s in report["models"].items():
        refused = s["requests"] - s["succeeded"]
        p50, p99 = (f"{s[k] * 1e3:.1f} ms" if s[k] is not None else "–" for k in ("latency_p50_s", "latency_p99_s"))
        table.add_row(
            name, f"{SETTINGS[name][0]} ms", str(s["requests"]), f"{s['slo_attained_frac']:.1%}", str(refused), p50, p99, f"{s['infer_per_s']:.0f}",
        )  # fmt: skip
    out.print(table)
    energy = report["energy"]
    power_w, j_per_request = (energy[f"{key}_{energy['provenance']}"] for key in ("power_w", "j_per_request"))
    if j_per_request is not None:
        out.print(
            f"energy ({energy['provenance']}: {energy['source']}): {power_w:.2f} W, {j_per_request * 1e3:.3g} mJ a request"
        )
    out.print(f"\npage: [bold]{output / 'report.html'}[/]   data: {output / 'report.json'}")


def _need_serving() -> None:
    from importlib.util import find_spec

    missing = [
        name for name in ("httptools", "uvloop", "orjson", "prometheus_client", "grpc") if find_spec(name) is None
    ]
    if missing:
        raise MissingCapability(f"serving needs {', '.join(missing)}: pip install 'jouleflow[serve]'")
