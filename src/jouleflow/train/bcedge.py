"""Trains the net of the policy `bcedge` on simulated boxes, made up or measured, and exports it as ONNX with a record of how."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tensordict import TensorDict

from jouleflow.errors import InputError, near_matches
from jouleflow.policy.bcedge import CHOICES, N_SEEN, TABLE, Observation
from jouleflow.train.boxes import World, made_up_world
from jouleflow.train.learners import LEARNERS, Learner
from jouleflow.train.nets import load_weights, onnx_of, weights_of
from jouleflow.train.serving_env import SLOTS, ServingEnv

N_ENVS = 8
SCORED_SEED = 1_000_000  # training has seeds below


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """max_minutes and max_rounds: what ends first; a round is an episode in each of N_ENVS environments. max_energy_weight: how much
    energy may count, see `policy.bcedge`. start_from: an exported net to go on from; what
    is left in the end is never worse on the scored episodes."""

    algorithm: str = "sac"
    seed: int = 0
    max_minutes: float = 15.0
    max_rounds: int = 150
    gamma: float = 0.9
    lr: float = 1e-3
    max_energy_weight: float = 0.0
    start_from: str = ""
    n_scored: int = 40  # episodes, at the end


def _chooser(net: torch.nn.Module) -> Callable[[Observation], int]:
    """The greedy choice of a net as it is now, without torch's overhead."""
    layers = weights_of(net)

    def choose(seen: Observation) -> int:
        x: NDArray[np.float32] = seen
        for k, (w, b) in enumerate(layers):
            x = x @ w + b
            if k + 1 < len(layers):
                x = np.maximum(x, 0.0)
        return int(x.argmax())

    return choose


def _round(envs: list[ServingEnv], learner: Learner, seeds: NDArray[np.int64]) -> tuple[TensorDict, float]:
    """An episode in each environment."""
    seen = np.stack([env.reset(seed=int(s))[0] for env, s in zip(envs, seeds, strict=True)])
    kept: list[TensorDict] = []
    total = 0.0
    for step in range(SLOTS):
        action = learner.choose(torch.from_numpy(seen))
        found = [env.step(int(a)) for env, a in zip(envs, action, strict=True)]
        then = np.stack([f[0] for f in found])
        reward = torch.tensor([f[1] for f in found], dtype=torch.float32)[:, None]
        done = torch.full((len(envs), 1), step + 1 == SLOTS)
        total += float(reward.mean())
        after = {"seen": torch.from_numpy(then), "reward": reward, "done": done, "terminated": torch.zeros_like(done)}
        kept.append(
            TensorDict(
                {"seen": torch.from_numpy(seen), "action": action, "next": TensorDict(after, [len(envs)])}, [len(envs)]
            )
        )
        seen = then
    return torch.stack(kept, 1), total / SLOTS


def score(
    choose: Callable[[Observation], int],
    make_world: Callable[[np.random.Generator, float], World],
    n_episodes: int = 40,
    energy_weight: float = 0.0,
) -> float:
    """Mean reward of a slot when every model of a box is decided by `choose`, on episodes that no training sees."""
    env = ServingEnv(make_world, choose, energy_weight)
    rewards = []
    for k in range(n_episodes):
        seen, _ = env.reset(seed=SCORED_SEED + k)
        ended = False
        while not ended:
            seen, reward, _, ended, _ = env.step(choose(seen))
            rewards.append(reward)
    return float(np.mean(rewards))


def train_bcedge(
    settings: TrainSettings,
    folder: Path,
    make_world: Callable[[np.random.Generator, float], World] = made_up_world,
    progress: Callable[[int, float], None] = lambda n, reward: None,
    slots: TensorDict | None = None,
) -> dict[str, Any]:
    """Trains and leaves bcedge.onnx and training.json in the folder; Ctrl-C ends it early and keeps what was learned. Returns the record.

    slots: steps that a server made; they are learned from before the simulated ones, and again with each round (not with PPO, which
    learns only from steps of its own).

    Raises InputError for an unknown algorithm, or slots for PPO.
    """
    if slots is not None and settings.algorithm == "ppo":
        raise InputError("ppo learns only from steps of its own: take sac or ddqn with a log")
    if settings.algorithm not in LEARNERS:
        raise InputError(f"unknown algorithm {settings.algorithm!r}: {near_matches(settings.algorithm, LEARNERS)}")
    torch.manual_seed(settings.seed)
    torch.set_num_threads(1)
    seeds = np.random.default_rng(settings.seed)
    start_from = Path(settings.start_from) if settings.start_from else None
    learner = LEARNERS[settings.algorithm](N_SEEN, len(CHOICES), settings.gamma, settings.lr, start_from)
    start = _chooser(learner.net)
    envs = [ServingEnv(make_world, max_energy_weight=settings.max_energy_weight) for _ in range(N_ENVS)]
    start_s, curve = monotonic(), []
    try:
        for n in range(settings.max_rounds):
            steps, reward = _round(envs, learner, seeds.integers(SCORED_SEED, size=N_ENVS))
            if slots is not None:
                learner.learn(slots[torch.randperm(len(slots))[: steps.numel()]])
            losses = learner.learn(steps)
            curve.append({"reward": reward, **losses})
            others = _chooser(learner.net)
            for env in envs:
                env.others = others
            progress(n + 1, reward)
            if monotonic() - start_s > settings.max_minutes * 60:
                break
    except KeyboardInterrupt:
        pass
    train_s = monotonic() - start_s
    # of a file its name: who is given the net need not know in whose folder it began
    told = {**asdict(settings), "start_from": start_from.name if start_from else ""}
    record: dict[str, Any] = {
        "settings": told, "n_logged_slots": 0 if slots is None else len(slots), "train_s": train_s,
        "n_steps": len(curve) * N_ENVS * SLOTS, "curve": curve,
    }  # fmt: skip
    _save(folder, learner, record)  # scoring takes a while, and may be interrupted
    random = np.random.default_rng(0)
    deciders = {
        "net": _chooser(learner.net),
        "table": lambda _: TABLE,
        "random": lambda _: int(random.integers(len(CHOICES))),
    } | ({"start": start} if start_from else {})
    scores = {name: score(choose, make_world, settings.n_scored) for name, choose in deciders.items()}
    most = settings.max_energy_weight
    with_energy = {n: score(choose, make_world, settings.n_scored, most) for n, choose in deciders.items() if most}
    aim, kept_start = with_energy or scores, False
    if start_from is not None and aim["net"] < aim["start"]:  # what was learned is worse
        kept_start = True
        load_weights(learner.net, start_from)
        for found in (scores, with_energy):
            if found:
                found["discarded"], found["net"] = found["net"], found["start"]
    record = {"scores": scores, "scores_with_energy": with_energy, "kept_start": kept_start, **record}
    _save(folder, learner, record)
    return record


def _save(folder: Path, learner: Learner, record: dict[str, Any]) -> None:
    """The net as it is now, and the record as far as there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    notes = {"settings": json.dumps(record["settings"]), "scores": json.dumps(record.get("scores", {}))}
    (folder / "bcedge.onnx").write_bytes(onnx_of(learner.net, notes))
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
