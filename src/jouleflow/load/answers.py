"""What came back from a server under load, and what it amounts to in perf_analyzer's words."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Answers:
    """What came back. start_s and latency_s per answered request; statuses counted, 0 for a lost connection."""

    start_s: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    status: list[int] = field(default_factory=list)
    duration_s: float = 0.0

    def summary(self, slo_s: float = 0.0, rows: int = 1) -> dict[str, Any]:
        """perf_analyzer's words: throughput and percentiles of what succeeded; goodput is the requests that met the SLO, a second;
        rejection is how long it took to say no at once (429, 503). rows: of each request; each is an inference."""
        status = np.array(self.status)
        good = np.array(self.latency_s)[status == 200] if len(status) else np.empty(0)
        refused = (status == 429) | (status == 503)
        bad = np.array(self.latency_s)[refused] if len(status) else np.empty(0)
        met = int((good <= slo_s).sum()) if slo_s else len(good)
        span = max(self.duration_s, 1e-9)
        out: dict[str, Any] = {
            "requests": len(status),
            "succeeded": len(good),
            "statuses": {str(k): v for k, v in sorted(Counter(self.status).items())},
            "infer_per_s": len(good) * rows / span,
            "requests_per_s": len(good) / span,
            "goodput_per_s": met / span,
            "slo_attained_frac": met / len(status) if len(status) else 0.0,
        }
        out["latency_mean_s"] = float(good.mean()) if len(good) else None
        for name, values in (("latency", good), ("rejection", bad)):
            for p in (50, 90, 95, 99):
                out[f"{name}_p{p}_s"] = float(np.percentile(values, p)) if len(values) else None
        return out
