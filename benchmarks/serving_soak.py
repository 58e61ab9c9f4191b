"""A server of the three demo networks under steady load for long: does memory, do descriptors, does the tail of latency grow?

python benchmarks/serving_soak.py [--minutes 30] [--load 0.8]

Poisson arrivals in the demo's mix, at a share of what the server holds of it: the highest rates, tried first, with which all three
networks' requests are in time but for HOLDS_FRAC. Ctrl-C ends it early with a report of what was seen. Slopes are least squares after the first minutes; their standard errors take the samples
for independent, which memory is not: they are too small rather than too large.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from serving_process import ENDS, ServerProcess
from setting import write_json

from jouleflow.demo_serve.demo import SETTINGS
from jouleflow.demo_serve.networks import SHAPES, make_all
from jouleflow.load.answers import Answers
from jouleflow.load.client import closed_loop, infer_request, open_loop

SETTLE_MINUTES = 6.0  # the server keeps samples of five minutes, and grows until it has them
SAMPLE_S = 5.0
HOLDS_FRAC, TRY_S = 0.98, 6.0  # of requests in time, of every network; and how long a rate is tried


@dataclass(frozen=True, slots=True)
class Sample:
    """Of the server at a moment. models_rss_bytes: of the models' processes together, memory shared with the server included."""

    at_s: float
    rss_bytes: int
    models_rss_bytes: int
    n_fds: int
    n_threads: int


class Watch(threading.Thread):
    """Samples a server until told to stop."""

    def __init__(self, server: ServerProcess) -> None:
        super().__init__(daemon=True)
        self.server, self.samples, self.ended = server, list[Sample](), threading.Event()
        self.start_s = time.monotonic()

    def run(self) -> None:
        while not self.ended.wait(SAMPLE_S):
            with suppress(OSError):
                s = self.server
                models = sum(s.rss_bytes(pid) for pid in s.workers())
                at_s = time.monotonic() - self.start_s
                self.samples.append(Sample(at_s, s.rss_bytes(), models, s.n_fds(), s.n_threads()))


def slope(x: list[float], y: list[float]) -> tuple[float, float] | None:
    """Of y over x by least squares, and its standard error; None with fewer than three points."""
    if len(x) < 3:
        return None
    at, values = np.array(x) - np.mean(x), np.array(y, np.float64)
    gradient = float(at @ values / (at @ at))
    rest = values - values.mean() - gradient * at
    return gradient, float(np.sqrt((rest @ rest) / (len(x) - 2) / (at @ at)))


def requests() -> dict[str, bytes]:
    random = np.random.default_rng(0)
    return {name: infer_request(name, {"x": random.normal(size=(1, *SHAPES[name])).astype(np.float32)}) for name in SETTINGS}  # fmt: skip


def rates_alone(port: int) -> dict[str, float]:
    """Requests a second of each network in the demo's mix that would together keep the server just busy, if none were in the way of
    another."""
    use = 0.0
    for name, request in requests().items():
        answers = uvloop.run(closed_loop("127.0.0.1", port, [request], 16, 4.0, 0.0))
        use += SETTINGS[name][1] / answers.summary()["infer_per_s"]
    return {name: rate_hz / use for name, (_, rate_hz) in SETTINGS.items()}


def rates_held(port: int) -> dict[str, float]:
    """The highest of some rates in the demo's mix that the server holds, each network within its SLO."""
    alone = rates_alone(port)
    for share in np.arange(1.0, 0.3, -0.05):
        answers = uvloop.run(one_minute(port, {name: share * hz for name, hz in alone.items()}, TRY_S, 0))
        fracs = {n: each.summary(SETTINGS[n][0] * 1e-3)["slo_attained_frac"] for n, each in answers.items()}
        print(f"{share:.2f} of what they do alone:", {n: f"{f:.1%} in time" for n, f in fracs.items()}, flush=True)
        if min(fracs.values()) >= HOLDS_FRAC:
            return {name: float(share * hz) for name, hz in alone.items()}
    raise SystemExit("the server holds not even a third of what it does with each network alone: is the machine busy?")


async def one_minute(port: int, rates_hz: dict[str, float], seconds: float, seed: int) -> dict[str, Answers]:
    random, asked = np.random.default_rng(seed), requests()
    loads = {}
    for name, rate_hz in rates_hz.items():
        arrivals_s = np.cumsum(random.exponential(1 / rate_hz, int(rate_hz * seconds) + 1))
        loads[name] = open_loop("127.0.0.1", port, [asked[name]], arrivals_s, max_connections=300)
    return dict(zip(loads, await asyncio.gather(*loads.values()), strict=True))


def report(samples: list[Sample], minutes: list[dict[str, Any]], minutes_asked: float) -> dict[str, Any]:
    """What changed over time."""
    settle_s = 60 * min(SETTLE_MINUTES, minutes_asked / 3)
    late = [s for s in samples if s.at_s >= settle_s]
    at_min = [s.at_s / 60 for s in late]
    out: dict[str, Any] = {"settle_s": settle_s, "n_samples": len(late)}
    for key, scale in (("rss_bytes", 1e-3), ("models_rss_bytes", 1e-3), ("n_fds", 1.0), ("n_threads", 1.0)):
        found = slope(at_min, [getattr(s, key) * scale for s in late])
        unit = "kb_per_min" if scale != 1.0 else "per_min"
        out[f"{key.removesuffix('_bytes')}_slope_{unit}"] = None if found is None else found[0]
        out[f"{key.removesuffix('_bytes')}_slope_{unit}_standard_error"] = None if found is None else found[1]
    settled = [m for m in minutes if m["from_s"] >= settle_s]
    for name in SETTINGS:
        p99_s = [m[name]["p99_s"] for m in settled if m[name]["p99_s"] is not None]
        found = slope([m["from_s"] / 600 for m in settled], p99_s) if len(p99_s) == len(settled) else None
        out[f"{name}_p99_drift_frac_per_10_min"] = None if found is None else found[0] / float(np.mean(p99_s))
    return out


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--load", type=float, default=0.8)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = make_all(Path(folder))
        for name, (slo_ms, _) in SETTINGS.items():
            (models / name / "jouleflow.toml").write_text(f"slo_ms = {slo_ms}\n")
        server = ServerProcess(models)
        try:
            write_json("serving_soak", soak(server, a.minutes, a.load))
        finally:
            server.kill()


def soak(server: ServerProcess, minutes_asked: float, load: float) -> dict[str, Any]:
    """Runs until the time is over or Ctrl-C, and reports."""
    sent: Counter[int] = Counter()
    rates_hz = {name: load * rate_hz for name, rate_hz in rates_held(server.port).items()}
    before = server.settled()
    print("requests a second:", {k: round(v, 1) for k, v in rates_hz.items()}, flush=True)
    watch, minutes, cut_short = Watch(server), list[dict[str, Any]](), False
    watch.start()
    try:
        for k in range(max(round(minutes_asked), 1)):
            from_s = time.monotonic() - watch.start_s
            answers = uvloop.run(one_minute(server.port, rates_hz, 60.0, k))
            minute: dict[str, Any] = {"from_s": from_s}
            for name, each in answers.items():
                sent.update(each.status)
                s = each.summary(SETTINGS[name][0] * 1e-3)
                minute[name] = {
                    "p50_s": s["latency_p50_s"], "p99_s": s["latency_p99_s"], "statuses": s["statuses"],
                    "slo_attained_frac": s["slo_attained_frac"],
                }  # fmt: skip
            minutes.append(minute)
            now = watch.samples[-1]
            tails = ", ".join(f"{n} {1e3 * minute[n]['p50_s']:.1f}/{1e3 * minute[n]['p99_s']:.1f} ms" for n in SETTINGS if minute[n]["p99_s"])  # fmt: skip
            print(f"minute {k + 1}: RSS {now.rss_bytes / 1e6:.1f} MB, models {now.models_rss_bytes / 1e6:.1f} MB, {now.n_fds} descriptors, "
                  f"{now.n_threads} threads; p50/p99 {tails}", flush=True)  # fmt: skip
    except KeyboardInterrupt:
        cut_short = True
        print("ended early", flush=True)
    watch.ended.set()
    counts = server.settled()
    totals = {k: sum(m[k] - before[name][k] for name, m in counts.items()) for k in ("accepted", *ENDS)}
    adds_up = totals["accepted"] == sum(totals[end] for end in ENDS)
    lost = sent[0]
    agrees = cut_short or (
        sum(sent.values()) - lost <= totals["accepted"] <= sum(sent.values())
        and sent[200] <= totals["completed"] <= sent[200] + lost
    )
    out = {
        "load_of_capacity": load, "rates_hz": rates_hz, "cut_short": cut_short, "counts": totals, "counts_add_up": adds_up,
        "clients_agree": agrees, "client_statuses": {str(k): v for k, v in sorted(sent.items())},
        "wasted_core_s": {name: m["wasted"]["core_s"] for name, m in counts.items()},
        **report(watch.samples, minutes, minutes_asked),
    }  # fmt: skip
    print(out, flush=True)
    return {**out, "minutes": minutes, "samples": [asdict(s) for s in watch.samples]}


if __name__ == "__main__":
    main()
