"""How fast the machine is at this moment, by the models themselves: a shared machine changes its speed from minute to minute."""

from __future__ import annotations

from pathlib import Path
from statistics import geometric_mean, median
from time import perf_counter

import numpy as np
import onnxruntime as ort

EACH_S = 0.05  # for each model


class Probe:
    """Runs a row of each model now and then."""

    def __init__(self, paths: list[Path]) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._runs = []
        for path in paths:
            session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            (port,) = session.get_inputs()
            self._runs.append((session, {port.name: np.zeros([1, *port.shape[1:]], np.float32)}))

    def row_s(self) -> float:
        """Seconds of a row now, the geometric mean over the models."""
        each = []
        for session, feeds in self._runs:
            seconds: list[float] = []
            session.run(None, feeds)
            while sum(seconds) < EACH_S:
                start_s = perf_counter()
                session.run(None, feeds)
                seconds.append(perf_counter() - start_s)
            each.append(median(seconds))
        return geometric_mean(each)
