"""How much longer a batch takes beside others: learned from the sets of batches that were measured, for all that were not.

A two-layer net on which models run with how many rows, as in BCEdge (arXiv 2305.01519; the inputs are our reconstruction), and
plain linear regression beside it. Both predict the logarithm of the slowdown. Fitting needs scikit-learn; predicting does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log2
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jouleflow.errors import InputError, MissingCapability
from jouleflow.profile.serving import Batch, Cell

HIDDEN = 16
FOLDS = 5
LEAST_CELLS = 10
Float = NDArray[np.float64]


class Interference(Protocol):
    """What the simulation asks: how many times longer a batch takes beside others, at least 1."""

    def slowdown(self, batch: Batch, beside: tuple[Batch, ...]) -> float: ...


class NoInterference:
    """Batches do not disturb each other."""

    def slowdown(self, batch: Batch, beside: tuple[Batch, ...]) -> float:
        return 1.0


@dataclass(frozen=True, slots=True)
class Pairwise:
    """A factor for each pair of models, multiplied over those beside; 1 for pairs that are not named."""

    factors: dict[tuple[str, str], float]

    def slowdown(self, batch: Batch, beside: tuple[Batch, ...]) -> float:
        factor = 1.0
        for other in beside:
            factor *= self.factors.get((batch.model, other.model), 1.0)
        return factor


class LearnedInterference:
    """A fitted net: layers of (weights[in, out], bias[out]) with tanh between. Answers are kept, as sets repeat."""

    def __init__(self, models: Sequence[str], layers: Sequence[tuple[Float, Float]]) -> None:
        self.models, self.layers = tuple(models), tuple(layers)
        self._known: dict[tuple[Batch, tuple[Batch, ...]], float] = {}

    def slowdown(self, batch: Batch, beside: tuple[Batch, ...]) -> float:
        if not beside:
            return 1.0
        key = batch, beside
        if key not in self._known:
            x = features(self.models, batch, beside)
            for k, (weights, bias) in enumerate(self.layers):
                x = x @ weights + bias
                x = np.tanh(x) if k + 1 < len(self.layers) else x
            self._known[key] = max(exp(float(x[0])), 1.0)
        return self._known[key]


def features(models: Sequence[str], batch: Batch, beside: Sequence[Batch]) -> Float:
    """[2 * 2 * models]: which model the batch is of and the logarithm of its rows, and the sums of both over those beside."""
    x = np.zeros((2, 2, len(models)))
    for side, group in enumerate(((batch,), beside)):
        for one in group:
            k = models.index(one.model)
            x[side, 0, k] += 1.0
            x[side, 1, k] += log2(one.n_rows) / 4
    return x.reshape(-1)


def _table(models: Sequence[str], cells: Sequence[Cell]) -> tuple[Float, Float, NDArray[np.int64]]:
    """Features, log slowdowns, and the cell that each row is of."""
    xs, ys, groups = [], [], []
    for n, cell in enumerate(cells):
        for k, batch in enumerate(cell.batches):
            beside = cell.batches[:k] + cell.batches[k + 1 :]
            xs.append(features(models, batch, beside))
            ys.append(np.log(max(cell.slowdown[k], 0.5)))
            groups.append(n)
    return np.array(xs), np.array(ys), np.array(groups)


def _fit(x: Float, y: Float, seed: int) -> Any:
    try:
        from sklearn.neural_network import MLPRegressor
    except ImportError as error:
        raise MissingCapability("fitting interference needs scikit-learn: pip install 'jouleflow[profile]'") from error
    net = MLPRegressor(
        hidden_layer_sizes=(HIDDEN,), activation="tanh", solver="lbfgs", alpha=0.03, max_iter=2000, random_state=seed
    )
    return net.fit(x, y)


def fit_interference(cells: Sequence[Cell], seed: int = 0) -> LearnedInterference:
    """Learned from the cells of more than one batch.

    Raises InputError when there are too few, MissingCapability without scikit-learn.
    """
    cells = _enough(cells)
    models = sorted({m for c in cells for m in c.models})
    x, y, _ = _table(models, cells)
    net = _fit(x, y, seed)
    return LearnedInterference(models, list(zip(net.coefs_, net.intercepts_, strict=True)))


def _enough(cells: Sequence[Cell]) -> list[Cell]:
    kept = [c for c in cells if len(c.models) > 1]
    if len(kept) < LEAST_CELLS:
        raise InputError(
            f"{len(kept)} sets of batches were measured together, at least {LEAST_CELLS} are needed: profile for longer"
        )
    return kept


def held_out_errors(cells: Sequence[Cell], seed: int = 0) -> dict[str, tuple[float, float]]:
    """Relative error, median and 95th percentile, on sets that were held out (five folds): of the net, of linear regression, and
    of no prediction at all."""
    cells = _enough(cells)
    models = sorted({m for c in cells for m in c.models})
    x, y, groups = _table(models, cells)
    fold = np.random.default_rng(seed).permutation(len(cells)) % FOLDS
    net, line = np.zeros_like(y), np.zeros_like(y)
    for k in range(FOLDS):
        out = fold[groups] == k
        net[out] = _fit(x[~out], y[~out], seed).predict(x[out])
        ones = np.ones((len(x), 1))
        weights = np.linalg.lstsq(np.hstack([x, ones])[~out], y[~out], rcond=None)[0]
        line[out] = np.hstack([x, ones])[out] @ weights
    found = {"net": net, "linear": line, "none": np.zeros_like(y)}
    errors = {name: np.abs(np.exp(np.maximum(p, 0.0) - y) - 1) for name, p in found.items()}
    return {name: (float(np.median(e)), float(np.percentile(e, 95))) for name, e in errors.items()}
