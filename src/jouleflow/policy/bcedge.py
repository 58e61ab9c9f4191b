"""BCEdge: a net chooses, slot by slot, each model's largest batch, how many of its batches may run at once, and whether to wait for a
full one. It is trained in `train` and runs here as ONNX. It decides where a table cannot know what it should: while batches of the model are seen
to disturb each other (`Disturbance`). And where its choice would be too late and the table's would not, or its batches are too small
for what waits or would hold up other models, the table's is taken, and counted.

Source: BCEdge, arXiv 2305.01519. What the net sees, the waiting, and slots of one SLO are our reconstruction; one net serves every
model of a box, told apart by what it sees; and when it is asked is our own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import exp, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jouleflow.errors import InputError
from jouleflow.policy.batch import Decision, Finished, Table, Totals, View
from jouleflow.policy.disturbance import MUCH, Disturbance, mean_with
from jouleflow.policy.utility import shortfall_between
from jouleflow.profile.latencies import Latencies

Observation = NDArray[np.float32]
N_SEEN = 21
SAFETY_FRAC = 0.1  # of a predicted latency
RATE_S = 1.0  # time constant of the arrival rate's mean
MIN_SLOT_S, MAX_SLOT_S = 0.01, 0.5
BATCHES, INSTANCES = (1, 2, 4, 8, 16, 64), (1, 2, 64)


@dataclass(frozen=True, slots=True)
class Choice:
    """n_rows: of a batch at most; 0 leaves it all to the table. n_instances: of its batches at once. hold: whether to wait until n_rows
    are there."""

    n_rows: int
    n_instances: int
    hold: bool


TABLE, GREEDY = 0, 1  # numbers of choices
CHOICES = (
    Choice(0, INSTANCES[-1], False),
    Choice(BATCHES[-1], INSTANCES[-1], False),
    *(
        Choice(n, m, hold)
        for hold in (False, True)
        for m in INSTANCES
        for n in BATCHES
        if (n, m, hold) != (BATCHES[-1], INSTANCES[-1], False)
    ),
)


@dataclass(frozen=True, slots=True)
class Slot:
    """One step of learning: what was seen, chosen, gained, and seen then."""

    seen: Observation
    choice: int
    reward: float
    seen_then: Observation


def _log(value: float) -> float:
    return log10(max(value, 1e-6))


@dataclass
class Watch:
    """Turns the totals of a box into what the net sees; remembers rates."""

    rates_hz: dict[str, float] = field(default_factory=dict)

    def look(
        self,
        name: str,
        view: View,
        before: dict[str, Totals],
        after: dict[str, Totals],
        span_s: float,
        energy_weight: float,
        disturbed: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> Observation:
        """What the net sees of a model at the end of a slot. disturbed: of `BcEdge`."""
        own, known = after[name], view.latencies
        row_s = own.row_s or own.slo_s
        weight = 1.0 - exp(-span_s / RATE_S)
        for each, t in after.items():
            came = t.n_arrived - before[each].n_arrived if each in before else 0
            rate = self.rates_hz.get(each, came / max(span_s, 1e-3))
            self.rates_hz[each] = rate + weight * (came / max(span_s, 1e-3) - rate)
        box = view.box
        n_cores, n_busy = (box.n_cores, box.n_busy) if box else (1, 0)
        others = {k: t for k, t in after.items() if k != name and t.row_s > 0}
        load = self.rates_hz[name] * row_s / n_cores
        other_load = sum(self.rates_hz[k] * t.row_s for k, t in others.items()) / n_cores
        other_rate = sum(self.rates_hz[k] for k in others)
        relative = sum(self.rates_hz[k] * _log(t.row_s / row_s) for k, t in others.items()) / max(other_rate, 1e-6)
        backlog_s = sum(t.n_waiting * t.row_s for t in after.values()) / n_cores
        was = before.get(name, own)
        n_ended, n_done = own.n_ended - was.n_ended, own.n_completed - was.n_completed
        in_time = (own.n_in_time - was.n_in_time) / n_ended if n_ended else 1.0
        mean_s = (own.latency_s - was.latency_s) / n_done if n_done else row_s
        waiting = view.n_waiting > 0
        return np.clip(
            np.array(
                [
                    _log(row_s / own.slo_s), *(known.of(n) / (n * row_s) if known else 1.0 for n in (2, 8, 32)), _log(load + 1e-3),
                    _log(other_load + 1e-3), _log(1 + view.n_waiting), (view.now_s - view.oldest_s) / own.slo_s if waiting else 0.0,
                    (view.deadline_s - view.now_s) / own.slo_s if waiting else 1.0, view.n_running / n_cores, n_busy / n_cores,
                    _log(backlog_s / own.slo_s + 1e-2), relative if others else 0.0, self.rates_hz[name] / max(other_rate + self.rates_hz[name], 1e-6),
                    in_time, mean_s / own.slo_s, 4.0 / n_cores, energy_weight, *(_log(d) for d in disturbed),
                ],
                np.float32,
            ),
            -4.0,
            4.0,
        )  # fmt: skip


def reward_between(
    before: dict[str, Totals], after: dict[str, Totals], name: str, span_s: float, energy_weight: float
) -> float:
    """What a slot was worth: the mean shortfall of all models of the box, the own one counting as much as the others together; less,
    by energy_weight, the logarithm of the core seconds of a request over those of a batch of one."""
    found = {
        n: shortfall_between(before[n], t, span_s)
        for n, t in after.items()
        if n in before and t.row_s > 0 and t.slo_s > 0
    }
    others = [u for n, u in found.items() if n != name and u is not None]
    own = found.get(name)
    parts = [p for p in (own, sum(others) / len(others) if others else None) if p is not None]
    reward = sum(parts) / len(parts) if parts else 0.0
    done = after[name].n_completed - before[name].n_completed
    busy_s = after[name].busy_s - before[name].busy_s
    if energy_weight and done and busy_s > 0:
        reward -= energy_weight * float(np.log(busy_s / done / after[name].row_s))
    return reward


@dataclass
class BcEdge:
    """choose: the number of a choice for what is seen. record: hears of every slot, for fine-tuning.

    disturbed: by INSTANCES, how many times longer than alone its batches have taken lately while that was chosen; 1 for what was
    never tried. Alone on this server, as it is: on one with little to do a batch takes up to four times what it took in the warm-up, and
    a net that was told so took every box for one whose batches disturb each other. ask_from: of `disturbance`, from which on the net is asked;
    0 for always.
    """

    choose: Callable[[Observation], int]
    energy_weight: float = 0.0
    record: Callable[[str, Slot], None] | None = None
    table: Table = field(default_factory=Table)
    choice: Choice = CHOICES[TABLE]
    n_decisions: int = 0
    n_fallbacks: int = 0
    disturbed: list[float] = field(default_factory=lambda: [1.0 for _ in INSTANCES])
    ask_from: float = MUCH
    disturbance: Disturbance = field(default_factory=Disturbance)
    _first: Latencies | None = None
    _longer: list[float] = field(default_factory=lambda: [0.0 for _ in INSTANCES])  # than was known at first
    _watch: Watch = field(default_factory=Watch)
    _now_s: float = 0.0
    _decides: bool = False  # whether the net did last
    slot_end_s: float = float("-inf")
    _slot_start_s: float = 0.0
    _before: dict[str, Totals] = field(default_factory=dict)
    _seen: tuple[Observation, int] | None = None

    @property
    def cheap_first(self) -> bool:
        """As of `Table`."""
        return True

    def decide(self, view: View) -> Decision:
        known, table = view.latencies, self.table.decide(view)
        self._first = self._first or known
        if known is None or view.box is None or not view.slo_s or table.give_up_s:
            return table
        self._now_s = view.now_s
        knows = self.disturbance.now(view.now_s) >= self.ask_from
        if view.now_s >= self.slot_end_s and (knows or self.record is not None) and self._matters(view):
            self._new_slot(view, knows)
        self._decides = knows
        if not knows:
            if self._seen is not None and self._seen[1] != TABLE:
                self._seen = None  # a slot that both decided in says nothing of either
            return table
        self.n_decisions += 1
        if not self.choice.n_rows:
            return table
        learned = self._learned(view)
        if (
            (_too_late(learned, view) and not _too_late(table, view))
            or self._falls_behind(learned, table, view)
            or _holds_up_others(learned, table, view)
        ):
            self.n_fallbacks += 1
            return table
        return learned

    def _matters(self, view: View) -> bool:
        """Whether anything depends on a choice. Else it goes at once, and the net would take as long as a small batch."""
        assert view.box is not None
        return bool(view.box.n_busy or view.n_waiting > 1 or self.choice.hold)

    def _learned(self, view: View) -> Decision:
        known, choice = view.latencies, self.choice
        assert known is not None
        most = min(choice.n_rows, view.max_batch)
        due_s = view.deadline_s - known.of(min(view.n_waiting, most)) * (1 + 2 * SAFETY_FRAC)
        blocked = view.n_running >= choice.n_instances or (choice.hold and view.n_waiting < most)
        if blocked and view.now_s < due_s:
            return Decision(0, due_s, view.n_instances)
        return Decision(min(view.n_waiting, most), view.now_s, view.n_instances)

    def _falls_behind(self, learned: Decision, table: Decision, view: View) -> bool:
        """Whether its batches are smaller than the table's while more waits than they get done in half an SLO: later rows would be
        late that need not be."""
        if not 0 < learned.n_rows < table.n_rows:
            return False
        assert view.latencies is not None
        at_once = min(self.choice.n_instances, view.n_instances)
        return view.n_waiting * view.latencies.of(learned.n_rows) / learned.n_rows / at_once > view.slo_s / 2

    def _new_slot(self, view: View, knows: bool) -> None:
        """knows: whether the net is asked; else the slot is the table's, and only told."""
        assert view.box is not None
        after, span_s = view.box.totals(), view.now_s - self._slot_start_s
        seen = self._watch.look(view.name, view, self._before, after, span_s, self.energy_weight, self.disturbed)
        if self._seen is not None and self.record is not None:
            reward = reward_between(self._before, after, view.name, span_s, self.energy_weight)
            self.record(view.name, Slot(self._seen[0], self._seen[1], reward, seen))
        number = self.choose(seen) if knows else TABLE
        self.choice, self._seen, self._before = CHOICES[number], (seen, number), after
        self._slot_start_s = view.now_s
        self.slot_end_s = view.now_s + min(max(view.slo_s, MIN_SLOT_S), MAX_SLOT_S)

    def finished(self, batch: Finished) -> None:
        """Remembers how much longer than at first a batch took; the rest is in the box's totals."""
        if self._first is None:
            return
        longer = batch.seconds / self._first.of(batch.n_rows)
        k = INSTANCES.index(self.choice.n_instances) if self._decides else len(INSTANCES) - 1
        self.disturbance.saw(longer, batch.alone, self._now_s)
        alone = self.disturbance.alone
        self._longer[k] = mean_with(self._longer[k] or alone, longer)  # until it is known, not disturbed
        self.disturbed[k] = self._longer[k] / (alone or 1.0)


def _too_late(decision: Decision, view: View) -> bool:
    """Whether the head of the queue would miss its deadline."""
    assert view.latencies is not None
    if decision.n_rows:
        end_s = view.now_s + view.latencies.of(decision.n_rows) * (1 + SAFETY_FRAC)
    else:
        end_s = max(decision.again_s, view.now_s) + view.latencies.of(1) * (1 + SAFETY_FRAC)
    return end_s > view.deadline_s


def _holds_up_others(learned: Decision, table: Decision, view: View) -> bool:
    """Whether a larger batch than the table's would keep a core for longer than other models' requests can wait."""
    assert view.latencies is not None
    assert view.box is not None
    if learned.n_rows <= table.n_rows:
        return False
    return view.latencies.of(learned.n_rows) > view.box.may_take_s(view.name, view.now_s)


def load_choose(model: bytes) -> Callable[[Observation], int]:
    """The choice of an exported net: input `seen` [1, N_SEEN], output `scores` [1, choices], the highest is taken."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session: Any = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    if shape[1] != N_SEEN or session.get_outputs()[0].shape[1] != len(CHOICES):
        raise InputError(
            f"the net takes {shape[1]} values, this version gives {N_SEEN}: train it again with `jouleflow train`"
        )
    return lambda seen: int(session.run(["scores"], {"seen": seen[None]})[0][0].argmax())
