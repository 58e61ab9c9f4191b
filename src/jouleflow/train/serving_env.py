"""A Gymnasium environment: one model of a simulated box, slot by slot. A thin face on `sim.serving`.

The agent decides for one model of the box; the others are decided by `others`, which a trainer sets to what it has learned so far, so
that the net learns among its like.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from jouleflow.policy.batch import Totals, View
from jouleflow.policy.bcedge import (
    CHOICES,
    MAX_SLOT_S,
    MIN_SLOT_S,
    N_SEEN,
    TABLE,
    BcEdge,
    Observation,
    Watch,
    reward_between,
)
from jouleflow.sim.serving import Simulation
from jouleflow.train.boxes import World, made_up_world

SLOTS = 64  # of an episode


class ServingEnv(gymnasium.Env[Observation, int]):  # type: ignore[misc]
    """Observation: what `BcEdge` sees, [N_SEEN]. Action: a number of CHOICES. Reward: `reward_between` of the slot.

    make_world: a box and its load for so many seconds. max_energy_weight: half of the episodes draw theirs from 0 to this, the others
    have 0.
    """

    def __init__(
        self,
        make_world: Callable[[np.random.Generator, float], World] = made_up_world,
        others: Callable[[Observation], int] | None = None,
        max_energy_weight: float = 0.0,
    ) -> None:
        self.make_world, self.others = make_world, others or (lambda _: TABLE)
        self.max_energy_weight = max_energy_weight
        self.observation_space = gymnasium.spaces.Box(-4.0, 4.0, (N_SEEN,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(len(CHOICES))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """A new box, one of its models, after two slots of warm-up."""
        super().reset(seed=seed)
        random = self.np_random
        world = self.make_world(random, SLOTS * MAX_SLOT_S + 2.0)
        self.name = str(random.choice(sorted(world.models)))
        self.energy_weight = float(random.uniform(0.0, self.max_energy_weight) * random.integers(2))
        self.slot_s = min(max(world.models[self.name].slo_s, MIN_SLOT_S), MAX_SLOT_S)
        self.policy = BcEdge(lambda _: self._action, self.energy_weight)
        self._action = TABLE
        policies = {n: BcEdge(self.others, self.energy_weight) for n in world.models} | {self.name: self.policy}
        self.sim = Simulation(world.models, world.n_cores, policies, world.interference)
        for name, times_s in world.arrivals_s.items():
            self.sim.feed(name, times_s)
        self._watch, self._n = Watch(), 0
        self._before: dict[str, Totals] = self.sim.dispatcher.totals()
        for _ in range(2):
            seen = self._advance()
        return seen, {}

    def step(self, action: int | NDArray[np.int64]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """One slot with a choice."""
        self._action = int(action)
        self.policy.choice = CHOICES[self._action]
        before = self._before
        seen = self._advance()
        reward = reward_between(before, self._before, self.name, self.slot_s, self.energy_weight)
        self._n += 1
        return seen, reward, False, self._n >= SLOTS, {}

    def _advance(self) -> Observation:
        self.policy.slot_end_s = inf  # its slots are ours
        self.sim.advance(self.sim.now_s + self.slot_s)
        after = self.sim.dispatcher.totals()
        queue, now_s = self.sim.dispatcher.queues[self.name], self.sim.now_s
        head = queue.head(now_s)
        view = View(
            now_s, queue.n_rows, head.arrived_s if head else now_s, head.deadline_s if head else inf, queue.n_running, queue.n_instances,
            queue.max_batch, queue.slo_s, queue.latencies.now, self.name, self.sim.dispatcher,
        )  # fmt: skip
        seen = self._watch.look(
            self.name, view, self._before, after, self.slot_s, self.energy_weight, self.policy.disturbed
        )
        self._before = after
        return seen
