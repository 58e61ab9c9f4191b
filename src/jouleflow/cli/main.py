"""The commands for one board, and the entry point; those around the server are in `serving`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from jouleflow.cli.terminal import (
    Capacitor,
    Count,
    Deadline,
    Duration,
    Harvest,
    Inputs,
    Json,
    ModelFile,
    Out,
    Planner,
    Seed,
    Sram,
    System,
    app,
    emit,
    err,
    out,
    quantity,
    size_bytes,
)
from jouleflow.errors import Infeasible, InputError, JouleflowError


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what this machine can do, and what to install for the rest."""
    from dataclasses import asdict

    from jouleflow.cli.doctor import examine

    found = examine()
    table = Table("", "capability", "found", "what to do")
    for c in found:
        mark = "[green]ok[/]" if c.present else ("[red]missing[/]" if c.needed else "[yellow]optional[/]")
        table.add_row(mark, c.name, escape(c.detail), "" if c.present else escape(c.remedy))
    emit([asdict(c) for c in found], as_json, table)
    if any(c.needed and not c.present for c in found):
        raise typer.Exit(1)


@app.command()
def devices(as_json: Json = False) -> None:
    """List the boards."""
    from jouleflow.device.load import known_systems, load_system
    from jouleflow.units import format_quantity as q

    table = Table("board", "core", "clock", "active", "SRAM", "flash", "NVM", "one charge", "description")
    rows = []
    for name in known_systems():
        d = load_system(name).device
        point = d.points[0]
        sizes = [d.memory(m).size_bytes for m in ("sram", "flash", "nvm")]
        rows.append(
            {
                "name": name, "arch": d.arch, "cpu_hz": point.clock_hz("cpu"), "active_w": point.active_w,
                "sram_bytes": sizes[0], "flash_bytes": sizes[1], "nvm_bytes": sizes[2], "charge_j": d.store.usable_j,
                "capacitance_f": d.store.capacitance_f, "description": d.description, "sources": dict(d.sources),
            }
        )  # fmt: skip
        table.add_row(
            name, d.arch, q(point.clock_hz("cpu"), "Hz"), q(point.active_w, "W"), *(q(s, "B") for s in sizes),
            f"{q(d.store.usable_j, 'J')} at {q(d.store.capacitance_f, 'F')}", d.description,
        )  # fmt: skip
    emit(rows, as_json, table)


@app.command()
def traces(
    to_shepherd: Annotated[
        str | None, typer.Option(help="Instead, write this trace (a name or a file) for shepherd's emulator.")
    ] = None,
    voltage: Annotated[str, typer.Option(help="With --to-shepherd: what the source stands at.")] = "2.0V",
    output: Annotated[Path, typer.Option("--out", help="With --to-shepherd: the file.")] = Path(
        "jouleflow-out/trace.h5"
    ),
    as_json: Json = False,
) -> None:
    """List the harvest traces that can be named; or write one as shepherd HDF5."""
    from jouleflow.trace.load import known_traces, load_trace

    if to_shepherd is not None:
        from jouleflow.trace.recorders import write_shepherd

        output.parent.mkdir(parents=True, exist_ok=True)
        written = write_shepherd(load_trace(to_shepherd), output, quantity(voltage, "V") or 1.0)
        emit({"written": str(written)}, as_json)
        if not as_json:
            out.print(f"written: {written}")
        return
    from jouleflow.units import format_quantity as q

    table = Table("trace", "kind", "mean", "peak", "duration", "source")
    rows = []
    for name, path in known_traces().items():
        t = load_trace(str(path))
        rows.append(
            {
                "name": name, "synthetic": t.synthetic, "mean_w": t.mean, "max_w": float(t.value.max()),
                "duration_s": t.duration_s, "samples": int(t.value.size), "source": t.source,
            }
        )  # fmt: skip
        kind = "[yellow]synthetic[/]" if t.synthetic else "recorded"
        table.add_row(name, kind, q(t.mean, "W"), q(float(t.value.max()), "W"), q(t.duration_s, "s"), t.source[:60])
    emit(rows, as_json, table)


@app.command()
def quantize(
    model: Annotated[Path, typer.Argument(help="A float .onnx file.")],
    calibration: Annotated[Path, typer.Option(help=".npz with one float array of typical inputs, (n, c, h, w).")],
    output: Annotated[Path, typer.Option("--out", "--output", "-o", help="Where to write the int8 .onnx.")] = Path(
        "model_int8.onnx"
    ),
    as_json: Json = False,
) -> None:
    """Make a float ONNX model int8 (static quantisation with a calibration set)."""
    from jouleflow.graph.load import load_model
    from jouleflow.graph.quantize import load_calibration, quantize_model

    path = quantize_model(model, load_calibration(calibration), output)
    m = load_model(path)
    table = Table("int8 model", "layers", "MACs", "weights")
    table.add_row(str(path), str(len(m.layers)), f"{m.macs:,}", f"{m.weight_bytes:,} B")
    emit({"output": str(path), "layers": len(m.layers), "macs": m.macs, "weight_bytes": m.weight_bytes}, as_json, table)


@app.command()
def plan(
    model: ModelFile, system: System = "riotee", harvest: Harvest = "rf_walk", planner: Planner = "tile", sram: Sram = None,
    capacitor: Capacitor = None, deadline: Deadline = None, seed: Seed = 0, as_json: Json = False,
) -> None:  # fmt: skip
    """Plan a model for a board and a harvest: tiles, what stays in SRAM, commits, predicted latency and energy, and how late an
    answer can be. With --deadline, refuse a plan that could miss it."""
    from dataclasses import asdict

    from jouleflow.firmware.emulate import layer_table
    from jouleflow.report.text import layers_table

    p = _prepare(model, system, harvest, planner, sram, capacitor, "86400s", seed)
    rows = layer_table(p.lowered, p.plan, p.profile, p.device.store.usable_j)
    response, promise = _response(p, quantity(deadline, "s"))
    data = {
        "plan": asdict(p.plan),
        "layers": [asdict(r) for r in rows],
        "worst_response_s": response,
        "promise": promise,
    }
    emit(data, as_json, layers_table(rows, out.width))
    if not as_json:
        e, c = p.plan.estimate, p.plan.certificate
        out.print(
            f"{len(p.plan.commits)} commits, arena {p.plan.arena_bytes} B, NVM {p.plan.nvm_bytes} B; predicted (mean power) "
            f"{e.latency_s:.3g} s and {e.energy_j * 1e3:.3g} mJ an inference; dearest hyper-tile {c.worst_hyper_tile_j * 1e3:.3g} mJ "
            f"of {c.charge_j * 1e3:.3g} mJ a charge"
        )
        out.print(promise)


def _response(p: Any, deadline_s: float | None) -> tuple[float | None, str]:
    """The worst response time and what can be said of it; Infeasible when a deadline cannot be promised."""
    from jouleflow.sim.response import worst_response

    try:
        response = worst_response(p.lowered, p.plan, p.profile, p.device, p.scenario.harvest)
    except JouleflowError as error:
        if deadline_s is not None:
            raise
        return None, f"no worst response time: {error}"
    late_s = response.worst_s
    if deadline_s is not None and late_s > deadline_s:
        raise Infeasible(
            f"an answer can take {late_s:.4g} s when the request meets an empty store {response.phase_s:.4g} s into "
            f"{p.scenario.harvest.name}, later than --deadline {deadline_s:g}s",
            f"--deadline {late_s * 1.001:.4g}s, or a stronger source",
        )
    return late_s, (
        f"worst response {late_s:.4g} s from an empty store, on any phase of {p.scenario.harvest.name} (there: at {response.phase_s:.4g} s); "
        f"at most {response.demand.power_cycles} charges"
    )


def _prepare(
    model: Path,
    system: str,
    harvest: str,
    planner: str,
    sram: str | None,
    capacitor: str | None,
    duration: str,
    seed: int,
) -> Any:
    from jouleflow.flow import prepare

    with err.status("") as status:
        return prepare(
            model, system, harvest, planner=planner, sram_bytes=size_bytes(sram), capacitance_f=quantity(capacitor, "F"),
            duration_s=quantity(duration, "s") or 1.0, seed=seed, note=lambda text: status.update(text),
        )  # fmt: skip


@app.command()
def build(
    model: ModelFile, system: System = "riotee", harvest: Harvest = "rf_walk", planner: Planner = "tile", sram: Sram = None,
    capacitor: Capacitor = None, form: Annotated[str, typer.Option("--as", help="cmake, arduino or zephyr.")] = "cmake",
    benchmark: Annotated[str | None, typer.Option(help="With cmake: speak EnergyRunner's protocol as ic01, vww01 or kws01.")] = None,
    output: Out = Path("jouleflow-out/firmware"), as_json: Json = False,
) -> None:  # fmt: skip
    """Write the firmware: C sources, a CMake project, the ELF, its map, and the per-layer table; or a library for Arduino or
    Zephyr; or with the serial protocol of MLPerf Tiny's runner."""
    from jouleflow.firmware.export import export_firmware
    from jouleflow.firmware.export_library import export_arduino, export_zephyr
    from jouleflow.flow import build as build_flow

    libraries = {"arduino": export_arduino, "zephyr": export_zephyr}
    if form != "cmake" and form not in libraries:
        raise InputError(f"--as {form!r} is not known: cmake, arduino or zephyr")

    p = _prepare(model, system, harvest, planner, sram, capacitor, "86400s", 0)
    firmware = build_flow(p)
    if form in libraries:
        written = libraries[form](firmware, output)
    else:
        written = export_firmware(firmware, p.profile, output, benchmark)
    table = Table("file", "what it is")
    for name, what in written:
        table.add_row(name, what)
    emit({"folder": str(output), "files": [name for name, _ in written]}, as_json, table)


@app.command()
def run(
    model: ModelFile, system: System = "riotee", harvest: Harvest = "rf_walk", planner: Planner = "tile", inputs: Inputs = None,
    count: Count = 10, sram: Sram = None, capacitor: Capacitor = None, deadline: Deadline = None, seed: Seed = 0,
    duration: Duration = "604800s", output: Out = Path("jouleflow-out/run"),
    as_json: Json = False,
) -> None:  # fmt: skip
    """Run the real firmware on the emulated board, on harvested power, through every power failure."""
    from jouleflow.cli.running import run_on_emulator

    p = _prepare(model, system, harvest, planner, sram, capacitor, duration, seed)
    _finish(run_on_emulator(p, inputs, count, quantity(deadline, "s"), err), output, as_json)


@app.command()
def simulate(
    model: ModelFile, system: System = "riotee", harvest: Harvest = "rf_walk", planner: Planner = "tile", count: Count = 1000,
    sram: Sram = None, capacitor: Capacitor = None, deadline: Deadline = None, seed: Seed = 0, duration: Duration = "86400s",
    output: Out = Path("jouleflow-out/simulation"), as_json: Json = False,
) -> None:  # fmt: skip
    """The same without the emulator, for days of trace."""
    from dataclasses import replace

    from jouleflow.cli.running import revision
    from jouleflow.firmware.emulate import layer_table
    from jouleflow.sim.simulate import simulate as simulate_plan

    p = _prepare(model, system, harvest, planner, sram, capacitor, duration, seed)
    result = simulate_plan(p.lowered, p.plan, p.profile, p.device, p.scenario, count)
    layers = layer_table(p.lowered, p.plan, p.profile, p.device.store.usable_j)
    _finish(replace(result, layers=layers, deadline_s=quantity(deadline, "s"), revision=revision()), output, as_json)


@app.command()
def explore(
    model: ModelFile,
    systems: Annotated[str, typer.Option(help="Boards, separated by commas.")] = "riotee",
    harvests: Annotated[str, typer.Option(help="Traces, separated by commas.")] = "rf_walk,office_light,sun_june",
    capacitors: Annotated[str, typer.Option(help="Capacitors.")] = "47uF,100uF,220uF,470uF,1mF,2.2mF,4.7mF",
    srams: Annotated[str, typer.Option(help="SRAM budgets; all: what the board has.")] = "all",
    planners: Annotated[str, typer.Option(help="Planners.")] = "tile",
    count: Annotated[int, typer.Option("-n", "--count", help="Inferences in each world.")] = 20,
    deadline: Deadline = None,
    duration: Duration = "2592000s",
    jobs: Annotated[int | None, typer.Option(help="Processes; as many as CPUs by default.")] = None,
    cluster: Annotated[
        str | None, typer.Option(help="A Ray cluster instead: its address, auto for the one here, local for a new one.")
    ] = None,
    output: Out = Path("jouleflow-out/explore"),
    as_json: Json = False,
) -> None:
    """Try capacitors, SRAM budgets, boards and traces together: which capacitor do I buy? Goes on where it was stopped."""
    from dataclasses import asdict

    from jouleflow.cli.running import explore_with_progress
    from jouleflow.explore.page import advice, write_sweep_page
    from jouleflow.explore.sweep import Sweep

    def each(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())

    sweep = Sweep(
        str(model), each(systems), each(harvests), tuple(quantity(c, "F") or 0.0 for c in each(capacitors)),
        tuple(None if s == "all" else size_bytes(s) for s in each(srams)), each(planners), count, quantity(duration, "s") or 1.0,
    )  # fmt: skip
    cells = explore_with_progress(sweep, output, jobs, err, cluster)
    page = write_sweep_page(cells, model.name, output / "explore.html", quantity(deadline, "s"))
    if as_json:
        print(json.dumps({"cells": [asdict(c) for c in cells], "folder": str(output), "page": str(page)}, indent=1))
        return
    for line in advice(cells, quantity(deadline, "s")):
        out.print(line)
    out.print(f"\npage: [bold]{page}[/]   data: {output}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A folder that `run` or `simulate` wrote.")],
    output: Annotated[
        Path | None,
        typer.Option("--out", "--output", "-o", help="The HTML file; report.html in the folder by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the self-contained HTML page of a run."""
    from jouleflow.record.store import load_run
    from jouleflow.report.page import write_page

    path = write_page(load_run(folder), output or folder / "report.html")
    emit({"page": str(path)}, as_json)
    if not as_json:
        out.print(f"page: {path}")


@app.command()
def demo(output: Out = Path("jouleflow-out/demo"), as_json: Json = False) -> None:
    """Recognise handwritten digits on a batteryless board, through dozens of power failures."""
    from importlib.resources import files

    from jouleflow.cli.running import run_on_emulator

    folder = Path(str(files("jouleflow") / "demo"))
    p = _prepare(folder / "digits_int8.onnx", "riotee", "rf_walk", "tile", None, "100uF", "86400s", 0)
    _finish(run_on_emulator(p, folder / "digits_test.npz", 60, None, err), output, as_json)


def _finish(result: Any, folder: Path, as_json: bool) -> None:
    from jouleflow.record.store import save_run
    from jouleflow.report.page import write_page
    from jouleflow.report.summary import summary
    from jouleflow.report.text import print_run

    save_run(result, folder)
    page = write_page(result, folder / "report.html")
    if as_json:
        print(json.dumps({**summary(result), "folder": str(folder), "page": str(page)}, indent=1))
    else:
        print_run(result, out)
        out.print(f"\npage: [bold]{page}[/]   data: {folder}")
    if not result.complete:
        err.print(f"[yellow]partial result[/]: {result.n_inferences} inferences were answered before the end")
    if result.outputs_match_reference is False:
        err.print("[red]the outputs differ from the reference[/]")
        raise typer.Exit(1)


import jouleflow.cli.serving  # noqa: E402, F401  its commands come after these


def main() -> None:
    """The entry point: turns our errors into one line and an exit code."""
    try:
        app()
    except Infeasible as error:
        err.print(f"[red]infeasible:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except JouleflowError as error:
        err.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
