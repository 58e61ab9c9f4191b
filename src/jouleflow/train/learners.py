"""Three ways to learn a discrete policy, by torchrl's losses: discrete SAC, double DQN and PPO. Each takes the steps that were just
made and improves a net whose highest score is the choice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torch.distributions import Categorical
from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
from torchrl.data.tensor_specs import Categorical as CategoricalSpec
from torchrl.modules import ProbabilisticActor, QValueActor, ValueOperator
from torchrl.objectives import ClipPPOLoss, DiscreteSACLoss, DQNLoss, SoftUpdate
from torchrl.objectives.value import GAE

from jouleflow.train.nets import load_weights, make_net

HIDDEN = (64, 64)
BUFFER, BATCH = 200_000, 256
UPDATES_FRAC = 0.25  # updates a step that was made
LEAST_RANDOM_FRAC = 0.05  # of a double DQN's choices
CRITIC_ROUNDS = (
    16  # in which only the critics of a net that goes on are trained: new ones know nothing, and would lead it away
)


class Learner(Protocol):
    """net: seen [n, in] to scores [n, choices]. Made with the weights of an exported net, it goes on from there."""

    net: torch.nn.Module

    def choose(self, seen: torch.Tensor) -> torch.Tensor:
        """Choices [n], exploring."""
        ...

    def learn(self, steps: TensorDict) -> dict[str, float]:
        """Improves from steps [envs, time] that were made in order; returns losses."""
        ...


def _learn_from_buffer(
    buffer: TensorDictReplayBuffer, steps: TensorDict, n_updates: int, update: Callable[[TensorDict], dict[str, float]]
) -> dict[str, float]:
    buffer.extend(steps.reshape(-1))
    losses: dict[str, float] = {}
    for _ in range(n_updates if len(buffer) >= BATCH else 0):
        losses = update(buffer.sample())
    return losses


def _net(n_in: int, n_choices: int, start_from: Path | None) -> torch.nn.Sequential:
    """With its weights from the start: losses keep copies of it."""
    net = make_net(n_in, n_choices, HIDDEN)
    if start_from is not None:
        load_weights(net, start_from)
    return net


def _buffer() -> TensorDictReplayBuffer:
    return TensorDictReplayBuffer(storage=LazyTensorStorage(BUFFER), batch_size=BATCH)


class DiscreteSac:
    """Soft actor-critic for discrete choices: twin critics, automatic temperature.

    Source: Christodoulou, arXiv 1910.07207; torchrl's DiscreteSACLoss. The target entropy is a tenth of the largest.
    """

    def __init__(self, n_in: int, n_choices: int, gamma: float, lr: float, start_from: Path | None = None) -> None:
        self.net = _net(n_in, n_choices, start_from)
        module = TensorDictModule(self.net, in_keys=["seen"], out_keys=["logits"])
        spec = CategoricalSpec(n_choices)
        actor = ProbabilisticActor(
            module, in_keys=["logits"], out_keys=["action"], spec=spec, distribution_class=Categorical
        )
        critic = TensorDictModule(make_net(n_in, n_choices, HIDDEN), in_keys=["seen"], out_keys=["action_value"])
        self.loss = DiscreteSACLoss(
            actor, critic, action_space=spec, num_actions=n_choices, alpha_init=0.1, target_entropy_weight=0.1
        )
        self.loss.make_value_estimator(gamma=gamma)
        self.target = SoftUpdate(self.loss, tau=0.005)
        self.optimizer = torch.optim.Adam(self.loss.parameters(), lr)
        self.buffer = _buffer()
        self.n_critic_rounds = CRITIC_ROUNDS if start_from else 0

    def choose(self, seen: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return Categorical(logits=self.net(seen)).sample()

    def learn(self, steps: TensorDict) -> dict[str, float]:
        losses = _learn_from_buffer(self.buffer, steps, int(steps.numel() * UPDATES_FRAC), self._update)
        self.n_critic_rounds -= 1
        return losses

    def _update(self, batch: TensorDict) -> dict[str, float]:
        found = self.loss(batch)
        total = found["loss_qvalue"]
        if self.n_critic_rounds <= 0:
            total = total + found["loss_actor"] + found["loss_alpha"]
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        self.target.step()
        return {k: float(found[k].detach()) for k in ("loss_actor", "loss_qvalue", "alpha", "entropy")}


class DoubleDqn:
    """Source: van Hasselt et al., arXiv 1509.06461; torchrl's DQNLoss. Explores at random, less and less."""

    def __init__(self, n_in: int, n_choices: int, gamma: float, lr: float, start_from: Path | None = None) -> None:
        self.net = _net(n_in, n_choices, start_from)
        actor = QValueActor(self.net, in_keys=["seen"], spec=CategoricalSpec(n_choices), action_space="categorical")
        self.loss = DQNLoss(actor, action_space="categorical", double_dqn=True, delay_value=True)
        self.loss.make_value_estimator(gamma=gamma)
        self.target = SoftUpdate(self.loss, tau=0.005)
        self.optimizer = torch.optim.Adam(self.loss.parameters(), lr)
        self.buffer, self.n_choices = _buffer(), n_choices
        self.random_frac = LEAST_RANDOM_FRAC if start_from else 1.0

    def choose(self, seen: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            best = self.net(seen).argmax(-1)
        anything = torch.randint(self.n_choices, best.shape)
        return torch.where(torch.rand(best.shape) < self.random_frac, anything, best)

    def learn(self, steps: TensorDict) -> dict[str, float]:
        self.random_frac = max(self.random_frac * 0.97, LEAST_RANDOM_FRAC)
        return _learn_from_buffer(self.buffer, steps, int(steps.numel() * UPDATES_FRAC), self._update)

    def _update(self, batch: TensorDict) -> dict[str, float]:
        loss = self.loss(batch)["loss"]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.target.step()
        return {"loss": float(loss.detach())}


class Ppo:
    """Source: Schulman et al., arXiv 1707.06347; torchrl's ClipPPOLoss and GAE."""

    def __init__(self, n_in: int, n_choices: int, gamma: float, lr: float, start_from: Path | None = None) -> None:
        self.net = _net(n_in, n_choices, start_from)
        module = TensorDictModule(self.net, in_keys=["seen"], out_keys=["logits"])
        self.actor = ProbabilisticActor(
            TensorDictSequential(module), in_keys=["logits"], out_keys=["action"], spec=CategoricalSpec(n_choices),
            distribution_class=Categorical, return_log_prob=True,
        )  # fmt: skip
        critic = ValueOperator(make_net(n_in, 1, HIDDEN), in_keys=["seen"])
        self.advantage = GAE(gamma=gamma, lmbda=0.9, value_network=critic, average_gae=True)
        self.loss = ClipPPOLoss(self.actor, critic, entropy_coeff=0.01)
        self.optimizer = torch.optim.Adam(self.loss.parameters(), lr)
        self.n_critic_rounds = CRITIC_ROUNDS if start_from else 0

    def choose(self, seen: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return Categorical(logits=self.net(seen)).sample()

    def learn(self, steps: TensorDict) -> dict[str, float]:
        with torch.no_grad():
            log_prob = Categorical(logits=self.net(steps["seen"])).log_prob(steps["action"])
        steps = steps.set(self.actor.log_prob_keys[0], log_prob)
        losses: dict[str, Any] = {}
        for _ in range(4):
            with torch.no_grad():
                self.advantage(steps)
            flat = steps.reshape(-1)
            for rows in torch.randperm(flat.numel()).split(BATCH):
                losses = self.loss(flat[rows])
                total = losses["loss_critic"]
                if self.n_critic_rounds <= 0:
                    total = total + losses["loss_objective"] + losses["loss_entropy"]
                self.optimizer.zero_grad()
                total.backward()
                torch.nn.utils.clip_grad_norm_(self.loss.parameters(), 0.5)
                self.optimizer.step()
        self.n_critic_rounds -= 1
        return {k: float(losses[k].detach()) for k in ("loss_objective", "loss_critic", "entropy")}


LEARNERS: dict[str, Callable[[int, int, float, float, Path | None], Learner]] = {
    "sac": DiscreteSac, "ddqn": DoubleDqn, "ppo": Ppo,
}  # fmt: skip
