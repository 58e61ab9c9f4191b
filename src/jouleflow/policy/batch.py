"""When to start a batch and how large: the decision alone, shared by the server and its simulation.

A policy sees one model's queue and what is known of its latencies; it says how many of the waiting rows to start now. Whether
a core is free for it, and which model goes first, is not its business.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Protocol

from jouleflow.profile.latencies import Latencies


def sustained_rows(latencies: Latencies, max_batch: int, slo_s: float) -> int:
    """The batch to use when there is always more to do: who just missed one must be able to wait for it and ride in the next, so
    it may take half of the SLO.

    Source: DeepRT's windows of half a deadline; our reconstruction.
    """
    return latencies.best_rows(max_batch, slo_s / 2 if slo_s else inf)


@dataclass(frozen=True, slots=True)
class Totals:
    """A model since it was loaded: requests that came, that ended (cancelled ones apart) and that were answered in time; the sum of
    the latencies of those answered; core seconds of its batches. And now: rows that wait, seconds of one row at
    best (0 while unknown), SLO."""

    n_arrived: int
    n_ended: int
    n_completed: int
    n_in_time: int
    latency_s: float
    busy_s: float
    n_waiting: int
    row_s: float
    slo_s: float


class Box(Protocol):
    """All models of a server, for policies that look beyond their own. n_busy: cores. may_take_s: how long a batch of a model that
    started now might keep its core without the requests of others being late for it. first_end_s: when the first of a model's
    running batches is expected to end."""

    n_cores: int

    @property
    def n_busy(self) -> int: ...

    def totals(self) -> dict[str, Totals]: ...

    def may_take_s(self, name: str, now_s: float) -> float: ...

    def first_end_s(self, name: str) -> float: ...


@dataclass(frozen=True, slots=True)
class View:
    """What a policy sees. Times in seconds on one clock. waiting rows are in the order in which they will go.

    oldest_s: when the first of them arrived. deadline_s: the earliest deadline among them. n_running: batches of this model
    that run now. latencies: None while nothing is known. name, box: this model among all.
    """

    now_s: float
    n_waiting: int
    oldest_s: float
    deadline_s: float
    n_running: int
    n_instances: int
    max_batch: int
    slo_s: float
    latencies: Latencies | None
    name: str = ""
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """Start so many rows now; 0 is to wait, at most until again_s. n_instances: batches that may run at once. give_up_s:
    first end those whose deadline is before this moment, and ask again."""

    n_rows: int
    again_s: float
    n_instances: int
    give_up_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Finished:
    """A batch that ended: its rows, how long it took, and whether no other batch of its model ran meanwhile."""

    n_rows: int
    seconds: float
    alone: bool = True


class BatchPolicy(Protocol):
    """One object a model: it may remember."""

    def decide(self, view: View) -> Decision: ...

    def finished(self, batch: Finished) -> None: ...


@dataclass(frozen=True, slots=True)
class Delay:
    """Triton's way: batches of the largest preferred size that waits; without one, when a full batch waits or the oldest has waited
    max_delay_s. A delay of 0 takes what is there.

    Source: Triton's dynamic_batching: preferred_batch_size, max_queue_delay_microseconds.
    """

    max_delay_s: float = 0.0
    preferred: tuple[int, ...] = ()

    def decide(self, view: View) -> Decision:
        most = min(view.n_waiting, view.max_batch)
        best = max([n for n in self.preferred if n <= most], default=0)
        due_s = view.oldest_s + self.max_delay_s
        if best or most == view.max_batch or view.now_s >= due_s:
            return Decision(best or most, view.now_s, view.n_instances)
        return Decision(0, due_s, view.n_instances)

    def finished(self, batch: Finished) -> None:
        """Learns nothing."""


AT_ONCE = Delay()


@dataclass
class Fixed:
    """Batches of one size; what is left over goes when waiting longer would miss its deadline, and at once when it has none."""

    n_rows: int = 8

    def decide(self, view: View) -> Decision:
        size = min(self.n_rows, view.max_batch)
        if view.n_waiting >= size or view.deadline_s == inf:
            return Decision(min(view.n_waiting, size), view.now_s, view.n_instances)
        takes_s = view.latencies.of(view.n_waiting) if view.latencies else view.slo_s / 2
        due_s = view.deadline_s - takes_s
        return Decision(0 if view.now_s < due_s else view.n_waiting, due_s, view.n_instances)

    def finished(self, batch: Finished) -> None:
        """Learns nothing."""


@dataclass
class Aimd:
    """Clipper's way: the largest batch grows by one while batches take no longer than the SLO, and shrinks by a tenth when one does. How
    long requests wait before it does not count. Without an SLO it only grows.

    Source: Crankshaw et al., Clipper, NSDI 2017, section 4.3.1.
    """

    limit: float = 1.0
    _slo_s: float = 0.0

    def decide(self, view: View) -> Decision:
        self._slo_s = view.slo_s
        n = min(view.n_waiting, int(self.limit), view.max_batch)
        return Decision(max(n, 1), view.now_s, view.n_instances)

    def finished(self, batch: Finished) -> None:
        if self._slo_s and batch.seconds > self._slo_s:
            self.limit = max(self.limit * 0.9, 1.0)
        else:
            self.limit = max(self.limit, min(self.limit + 1, batch.n_rows + 1))


@dataclass
class Table:
    """Earliest deadline first within a model, what costs little first among models (`turns`), with a look-up: of the batches that the
    waiting rows allow, that end before the earliest deadline and leave other models a core in time, the one that gets most rows done a
    second. It waits for more rows only while another batch of the model is about to end, when that takes less than what a batch costs
    whatever its size.

    When more waits than one batch takes, a first row that is nearly too late would force a small batch, and the next row would be
    nearly too late in its turn, until nothing is in time any more. Such rows are given up at once.
    """

    safety_frac: float = 0.1  # of the predicted latency
    share_frac: float = 0.2  # more rows a second for which a batch takes more than its core's share

    @property
    def cheap_first(self) -> bool:
        """Among models, as `turns` says."""
        return True

    def decide(self, view: View) -> Decision:
        known = view.latencies
        most = min(view.n_waiting, view.max_batch)
        if known is None:
            return Decision(most, view.now_s, view.n_instances)
        left_s = (view.deadline_s - view.now_s) / (1 + self.safety_frac)
        full = sustained_rows(known, view.max_batch, view.slo_s)
        if view.n_waiting > full and left_s < known.of(full):
            return Decision(0, view.now_s, view.n_instances, view.now_s + known.of(full) * (1 + self.safety_frac))
        until_s = self._joins_until_s(view, known)
        if view.now_s < until_s < view.deadline_s - known.of(most) * (1 + self.safety_frac):
            return Decision(0, until_s, view.n_instances)
        within_s = min(left_s, view.slo_s / 2) if view.slo_s else left_s
        if view.box is not None and most > 1:
            within_s = min(within_s, view.box.may_take_s(view.name, view.now_s))
        return Decision(self._shared(known, most, within_s, view), view.now_s, view.n_instances)

    def _shared(self, known: Latencies, most: int, within_s: float, view: View) -> int:
        """The rows of the batch; no more than an even share among the cores unless more get clearly more done: who takes all leaves
        the next core with what trickles in."""
        rows = known.best_rows(most, within_s)
        at_once = min(view.n_instances, view.box.n_cores) if view.box is not None else 1
        share = known.best_rows(-(-view.n_waiting // max(at_once, 1)), within_s)
        if share < rows and rows / known.of(rows) <= (1 + self.share_frac) * share / known.of(share):
            return share
        return rows

    def _joins_until_s(self, view: View, known: Latencies) -> float:
        """Until when to wait for a running batch to end."""
        if not view.n_running or view.box is None or view.n_waiting >= view.max_batch:
            return 0.0
        any_size_s = 2 * known.of(1) - known.of(2)
        end_s = view.box.first_end_s(view.name)
        return end_s + any_size_s if end_s - view.now_s < any_size_s else 0.0

    def finished(self, batch: Finished) -> None:
        """Learns nothing: the server keeps the latencies."""
