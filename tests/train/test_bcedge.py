"""Training the learned policy: the environment keeps Gymnasium's contract, each algorithm learns a toy, and the net goes out as ONNX."""

import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torchrl", reason="the train extra is not installed")
pytest.importorskip("gymnasium", reason="the train extra is not installed")

import torch
from gymnasium.utils.env_checker import check_env
from tensordict import TensorDict

from jouleflow.errors import InputError, JouleflowError
from jouleflow.policy.bcedge import CHOICES, N_SEEN, Slot, load_choose
from jouleflow.serve.slot_log import SlotLog
from jouleflow.train.bcedge import TrainSettings, score, train_bcedge
from jouleflow.train.boxes import _arrivals, made_up_world
from jouleflow.train.learners import CRITIC_ROUNDS, LEARNERS, DoubleDqn, Learner
from jouleflow.train.nets import load_weights, make_net, onnx_of
from jouleflow.train.serving_env import ServingEnv
from jouleflow.train.slots import read_slots


def test_the_environment_keeps_its_contract() -> None:
    check_env(ServingEnv(), skip_render_check=True)


def test_episodes_repeat_with_their_seed() -> None:
    def episode() -> list[float]:
        env = ServingEnv()
        env.reset(seed=3)
        return [env.step(k % len(CHOICES))[1] for k in range(10)]

    assert episode() == episode()


def rounds_of_a_toy(learner: Learner, n_rounds: int, worth: float = 0.0) -> list[float]:
    """Of three choices, the one that what is seen points to is right, and gains 1 more than the others. Returns how often it was chosen."""
    torch.set_num_threads(1)
    random, right_frac = torch.Generator().manual_seed(0), []
    for _ in range(n_rounds):
        right = torch.randint(3, (8, 32), generator=random)
        seen = torch.nn.functional.one_hot(right, 3).float()
        action = learner.choose(seen)
        right_frac.append(float((action == right).float().mean()))
        reward = (action == right).float()[..., None] + worth
        done = torch.zeros(8, 32, 1, dtype=torch.bool)
        done[:, -1] = True
        then = {"seen": seen.roll(-1, 1), "reward": reward, "done": done, "terminated": done}
        learner.learn(TensorDict({"seen": seen, "action": action, "next": TensorDict(then, [8, 32])}, [8, 32]))
    return right_frac


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_each_algorithm_solves_a_toy_and_goes_on_from_there(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    learner = LEARNERS[name](3, 3, 0.5, 3e-3, None)
    rounds_of_a_toy(learner, 30)
    assert learner.net(torch.eye(3)).argmax(-1).tolist() == [0, 1, 2]
    (tmp_path / "net.onnx").write_bytes(onnx_of(learner.net, {}))
    again = LEARNERS[name](3, 3, 0.5, 3e-3, tmp_path / "net.onnx")
    assert torch.equal(again.net(torch.eye(3)), learner.net(torch.eye(3)))
    if isinstance(again, DoubleDqn):  # both of its nets
        online, target = again.loss.value_network_params, again.loss.target_value_network_params
        assert all(torch.equal(x, y) for x, y in zip(online.values(True, True), target.values(True, True), strict=True))
        assert min(rounds_of_a_toy(again, 6)) > 0.85
    else:  # a critic that knows nothing of losses must not change what is right
        assert min(rounds_of_a_toy(again, CRITIC_ROUNDS + 3, -5.0)) > 0.85


@pytest.mark.slow
def test_a_net_that_became_worse_is_not_left(tmp_path: Path) -> None:
    start = files("jouleflow") / "policy" / "data" / "bcedge.onnx"
    settings = TrainSettings("ddqn", max_rounds=1, lr=1.0, start_from=str(start), n_scored=2)
    record = train_bcedge(settings, tmp_path)
    assert record["kept_start"]
    assert record["scores"]["net"] == record["scores"]["start"] > record["scores"]["discarded"]
    kept, given = (make_net(N_SEEN, len(CHOICES), (64, 64)) for _ in range(2))
    load_weights(kept, tmp_path / "bcedge.onnx")
    load_weights(given, Path(str(start)))
    assert torch.equal(kept[0].weight, given[0].weight)
    assert str(Path(str(start)).parent).encode() not in (tmp_path / "bcedge.onnx").read_bytes()
    assert record["settings"]["start_from"] == "bcedge.onnx"


@pytest.mark.slow
@pytest.mark.parametrize("when", ["while it learns", "while it is scored"])
def test_an_interrupted_training_keeps_what_was_learned(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    settings = TrainSettings("ddqn", max_rounds=2, n_scored=1)
    if when == "while it learns":
        assert train_bcedge(settings, tmp_path, progress=interrupt)["n_steps"] == 8 * 64
    else:
        monkeypatch.setattr("jouleflow.train.bcedge.score", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train_bcedge(settings, tmp_path)
    assert json.loads((tmp_path / "training.json").read_text())["n_steps"]
    load_choose((tmp_path / "bcedge.onnx").read_bytes())


def test_an_episode_sees_the_mean_rate() -> None:
    """Of all that is made for an episode, a model with a near deadline sees little: a day must not always begin in its trough."""
    random = np.random.default_rng(0)
    seen = [(_arrivals({"m": 100.0}, random, 34.0)["m"] < 1.3).sum() for _ in range(1500)]
    assert np.mean(seen) == pytest.approx(130, rel=0.05)


def test_a_net_goes_out_and_comes_back(tmp_path: Path) -> None:
    net, other = (make_net(N_SEEN, len(CHOICES), (8, 8)) for _ in range(2))
    (tmp_path / "n.onnx").write_bytes(onnx_of(net, {"seed": "1"}))
    load_weights(other, tmp_path / "n.onnx")
    choose = load_choose((tmp_path / "n.onnx").read_bytes())
    for seed in range(20):
        seen = np.random.default_rng(seed).normal(size=N_SEEN).astype(np.float32)
        wanted = int(net(torch.from_numpy(seen)).argmax())
        assert int(other(torch.from_numpy(seen)).argmax()) == wanted == choose(seen)
    with pytest.raises(InputError, match="another kind"):
        load_weights(make_net(3, 3, (8,)), tmp_path / "n.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"not a net")
    with pytest.raises(JouleflowError):
        load_weights(other, tmp_path / "bad.onnx")


@pytest.mark.slow
def test_a_short_training_leaves_its_record(tmp_path: Path) -> None:
    record = train_bcedge(TrainSettings(max_rounds=2, seed=5, n_scored=2), tmp_path)
    assert json.loads((tmp_path / "training.json").read_text())["settings"]["seed"] == 5
    assert record["n_steps"] == 2 * 8 * 64
    assert set(record["scores"]) == {"net", "table", "random"}
    load_choose((tmp_path / "bcedge.onnx").read_bytes())(np.zeros(N_SEEN, np.float32))
    with pytest.raises(InputError, match="unknown algorithm"):
        train_bcedge(TrainSettings(algorithm="scs"), tmp_path)


def test_the_net_that_comes_with_it_is_better_than_random() -> None:
    choose = load_choose((files("jouleflow") / "policy" / "data" / "bcedge.onnx").read_bytes())
    random = np.random.default_rng(0)
    assert score(choose, made_up_world, 6) > score(lambda _: int(random.integers(len(CHOICES))), made_up_world, 6) + 0.2


@pytest.mark.slow
def test_a_servers_slots_are_learned_from(tmp_path: Path) -> None:
    log, zeros = SlotLog(tmp_path / "slots.jsonl"), np.zeros(N_SEEN, np.float32)
    for k in range(300):
        log("m", Slot(zeros, k % len(CHOICES), -0.5, zeros))
    log.close()
    with (tmp_path / "slots.jsonl").open("ab") as file:
        file.write(b'{"model":"m","se')  # cut off
    slots = read_slots(tmp_path / "slots.jsonl")
    assert len(slots) == 300
    log = SlotLog(tmp_path / "slots.jsonl")  # the next server goes on after the last whole line
    log("m", Slot(zeros, 0, -0.5, zeros))
    log.close()
    assert len(read_slots(tmp_path / "slots.jsonl")) == 301
    record = train_bcedge(TrainSettings(max_rounds=1, n_scored=1), tmp_path, slots=slots)
    assert record["n_logged_slots"] == 300
    (tmp_path / "other").write_bytes(b"x" * 200_000)
    with pytest.raises(InputError, match="no slot log"):
        SlotLog(tmp_path / "other")
    assert (tmp_path / "other").stat().st_size == 200_000
    (tmp_path / "bad.jsonl").write_text('{"model": "m", "seen": [1], "choice": 0, "reward": 0, "then": []}\n')
    with pytest.raises(InputError, match="line 1"):
        read_slots(tmp_path / "bad.jsonl")
