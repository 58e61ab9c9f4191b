"""The simulated server: queueing theory where there is a formula, conservation, and what policies are for."""

from dataclasses import dataclass, field
from math import exp, inf

import numpy as np
import pytest

from jouleflow.errors import InputError
from jouleflow.policy.batch import Decision, Delay, Finished, Table, Totals, View
from jouleflow.policy.dispatch import Dispatcher
from jouleflow.policy.policies import POLICIES
from jouleflow.profile.interference import Pairwise
from jouleflow.profile.latencies import Latencies
from jouleflow.profile.serving import CAUGHT_COLD_S, Wakes, lost_frac
from jouleflow.sim.serving import Front, ModelOutcome, SimModel, simulate_serving, simulate_with
from jouleflow.trace.arrivals import make_arrivals

ENDS = ("completed", "rejected", "expired", "cancelled", "failed")


FRONT = Front(request_s=100e-6, answer_s=50e-6, client_s=50e-6)


def poisson(rate_hz: float, duration_s: float, seed: int = 0) -> np.ndarray:
    return make_arrivals("poisson", rate_hz, duration_s, np.random.default_rng(seed))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_at_a_time_waits_as_the_m_d_1_formula_says(load: float) -> None:
    service_s = 0.01
    model = SimModel(Latencies((1,), (service_s,)), max_batch=1, max_queue=10**6)
    outcome = simulate_serving({"m": model}, {"m": poisson(load / service_s, 1500.0)}, 1, "delay")
    wait_s = outcome.models["m"].latency_s.mean() - service_s
    assert wait_s == pytest.approx(load * service_s / (2 * (1 - load)), rel=0.08)  # Pollaczek-Khinchine
    assert outcome.busy_s / outcome.duration_s == pytest.approx(load, rel=0.02)


def test_two_cores_work_side_by_side() -> None:
    model = SimModel(Latencies((1,), (1.0,)), max_batch=1, n_instances=2)
    outcome = simulate_serving({"m": model}, {"m": np.zeros(4)}, 2, "delay")
    np.testing.assert_allclose(sorted(outcome.models["m"].latency_s), [1, 1, 2, 2])


def test_a_neighbour_slows_down_only_while_it_runs() -> None:
    latencies = Latencies((1,), (1.0,))
    models, beside = {"a": SimModel(latencies), "b": SimModel(latencies)}, Pairwise({("a", "b"): 2.0})
    outcome = simulate_serving(models, {"a": np.array([0.0]), "b": np.array([0.5])}, 2, "delay", beside)
    # half of a alone, then 1 s beside b at half speed: done as b ends
    np.testing.assert_allclose(outcome.models["a"].latency_s, [1.5])
    np.testing.assert_allclose(outcome.models["b"].latency_s, [1.0])


def test_the_loop_takes_its_share_of_the_cores() -> None:
    # one core: 0.5 s of reading before the batch, 0.25 s of another request's in it, 0.25 s of answering after it, 0.1 s of the client
    model = SimModel(Latencies((1,), (1.0,)), max_batch=1, front=Front(0.5, 0.25, 0.1))
    outcome = simulate_serving({"m": model}, {"m": np.array([0.0])}, 1, "delay")
    np.testing.assert_allclose(outcome.models["m"].latency_s, [0.5 + 1.0 + 0.25 + 0.1])
    two = simulate_serving({"m": model}, {"m": np.array([0.0, 1.0])}, 3, "delay")
    assert two.models["m"].latency_s[0] == pytest.approx(1.85)  # there are cores free for the loop and the client
    assert two.front_s == pytest.approx(1.5)


def test_what_a_batch_waits_for_a_core_is_no_work() -> None:
    # 0.5 s of reading; then the second request is read for 0.5 s, from 1.0, while the batch of the first has a quarter of the core
    model = SimModel(Latencies((1,), (1.0,)), max_batch=1, front=Front(0.5, 0.0))
    outcome = simulate_serving({"m": model}, {"m": np.array([0.0, 1.0])}, 1, "delay")
    assert outcome.models["m"].latency_s[0] == pytest.approx(1.875)
    assert outcome.busy_s == pytest.approx(2.0)


def test_a_loop_that_has_rested_takes_longer() -> None:
    model = SimModel(Latencies((1,), (0.2,)), max_batch=2, front=Front(0.001, 0.001, wake_s=0.01))
    alone = simulate_serving({"m": model}, {"m": np.array([0.0, 1.0])}, 1, "delay")
    # read after a rest, at the very start but for none; answered after 0.2 s: all of wake_s each time
    np.testing.assert_allclose(alone.models["m"].latency_s, [0.001 + 0.2 + 0.011, 0.011 + 0.2 + 0.011])
    assert alone.front_s == pytest.approx(4 * 0.001 + 3 * 0.01)
    many = simulate_serving({"m": model}, {"m": np.array([0.001, 0.0011, 0.0012])}, 1, "delay")
    # of three that come within what the loop takes for the first, one waits for it to come back, for 1 ms; then two ends of batches
    assert many.front_s == pytest.approx(6 * 0.001 + 0.01 * (lost_frac(0.001) + 2))
    assert lost_frac(CAUGHT_COLD_S) == pytest.approx(1 - exp(-1))


def test_a_box_that_was_idle_takes_longer() -> None:
    model = SimModel(Latencies((1,), (1.0,)), max_batch=1, idle_spread_s=(0.5,))
    found = simulate_serving({"m": model}, {"m": np.array([0.0, 1.0, 5.0])}, 1, "delay").models["m"]
    np.testing.assert_allclose(
        found.latency_s, [1.5, 0.5 + 1.0 + 0.125, 1.5], rtol=1e-4
    )  # idle; right after another, when a quarter is left; idle again
    half = simulate_serving({"m": model}, {"m": np.array([0.0, 1.0, 5.0])}, 2, "delay").models["m"]
    np.testing.assert_allclose(half.latency_s, [1.5, 0.5 + 1.3125, 1.5], rtol=1e-4)  # half of the cores were busy


def test_a_request_waits_until_everybody_has_woken_up() -> None:
    # idle for 1 s or longer: 0.5 s; else 0.25 s; a busy core is given up after 10 s, or when its batch is done
    wakes = Wakes(idle_s=(1.0,), spread_s=(((0.25,), (0.5,)), ((10.0,), (10.0,))))
    model = SimModel(Latencies((1,), (1.0,)), max_batch=1, front=Front(wakes=wakes))
    alone = simulate_serving({"m": model}, {"m": np.array([1.0, 5.0])}, 1, "delay").models["m"]
    np.testing.assert_allclose(alone.latency_s, [1.5, 1.5])
    second = simulate_serving({"m": model}, {"m": np.array([1.0, 1.6])}, 1, "delay").models["m"]
    np.testing.assert_allclose(second.latency_s, [1.5, 2.5 - 1.6 + 1.0])  # it comes through as the first is done at 2.5
    assert second.counts["completed"] == 2


@dataclass
class Bookkeeper:
    """A table that looks at the totals whenever it decides."""

    table: Table = field(default_factory=Table)
    seen: list[Totals] = field(default_factory=list)

    def decide(self, view: View) -> Decision:
        assert view.box is not None
        self.seen.append(view.box.totals()[view.name])
        return self.table.decide(view)

    def finished(self, batch: Finished) -> None:
        self.table.finished(batch)


def test_totals_add_up_between_the_end_of_a_batch_and_its_answers() -> None:
    model = SimModel(Latencies((1, 8), (0.010, 0.020)), 1.0, 8, front=FRONT)
    policy = Bookkeeper()
    simulate_with({"m": model}, {"m": poisson(200, 5.0)}, 1, {"m": policy})
    assert any(t.n_waiting and t.n_completed for t in policy.seen)
    for totals in policy.seen:  # nobody is refused or late
        assert totals.n_ended == totals.n_completed == totals.n_in_time
        assert totals.n_ended + totals.n_waiting <= totals.n_arrived
        assert (totals.latency_s > 0) == (totals.n_completed > 0)


def test_what_varies_is_drawn_and_the_same_again() -> None:
    model = SimModel(Latencies((1,), (1.0,)), max_batch=1, idle_spread_s=(0.0, 0.5, 1.0))
    times = {"m": np.arange(300) * 10.0}
    runs = [simulate_serving({"m": model}, times, 1, "delay") for _ in range(2)]
    latency_s = runs[0].models["m"].latency_s
    np.testing.assert_array_equal(latency_s, runs[1].models["m"].latency_s)
    assert set(latency_s.round(6)) == {1.0, 1.5, 2.0}
    assert latency_s.mean() == pytest.approx(1.5, rel=0.05)
    assert runs[0].busy_s == pytest.approx(latency_s.sum())  # what is drawn is work, and costs energy


def test_refusing_costs_what_it_costs() -> None:
    model = SimModel(Latencies((1,), (0.01,)), slo_s=0.05, max_batch=1)
    costly = SimModel(Latencies((1,), (0.01,)), slo_s=0.05, max_batch=1, front=Front(0.0005, 0.0005))
    times = {"m": poisson(900, 10.0)}
    free, paid = (simulate_serving({"m": m}, times, 1, "table").models["m"].in_time_frac for m in (model, costly))
    quick = SimModel(Latencies((1,), (0.01,)), slo_s=0.05, max_batch=1, front=Front(0.0005, 0.0005, refuse_s=0.0))
    assert paid < simulate_serving({"m": quick}, times, 1, "table").models["m"].in_time_frac < free
    assert paid < 0.5 * free  # ten times too much: reading and refusing takes nearly all of the core


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_ends_once(policy: str) -> None:
    models = {
        "small": SimModel(Latencies((1, 8, 32), (0.002, 0.004, 0.01)), slo_s=0.02, n_instances=2),
        "large": SimModel(Latencies((1, 8), (0.02, 0.12)), slo_s=0.2, max_batch=8, n_instances=2, front=FRONT),
    }
    arrivals = {"small": poisson(900, 5.0, 1), "large": poisson(90, 5.0, 2)}
    outcome = simulate_serving(models, arrivals, 2, policy, Pairwise({("large", "small"): 1.2}))
    for name, m in outcome.models.items():
        assert m.n_requests == len(arrivals[name]) == sum(m.counts.get(end, 0) for end in ENDS)
        assert m.counts["completed"] == len(m.latency_s)
        assert m.counts["completed"] > 0


def goodput(policy: str, load: float) -> ModelOutcome:
    model = SimModel(Latencies((1, 2, 4, 8, 16), (0.010, 0.012, 0.016, 0.024, 0.040)), slo_s=0.06, max_batch=16)
    rate_hz = load * 16 / 0.040
    return simulate_serving({"m": model}, {"m": poisson(rate_hz, 30.0, 3)}, 1, policy).models["m"]


def test_table_keeps_its_goodput_under_overload() -> None:
    peak = max(goodput("table", load).in_time_frac * load for load in (0.5, 0.8, 0.9, 1.0))
    for load in (1.5, 3.0, 10.0):
        assert goodput("table", load).in_time_frac * load >= 0.85 * peak


def test_batching_beats_one_at_a_time_when_it_matters() -> None:
    assert goodput("table", 0.8).in_time_frac > 0.95
    one = SimModel(Latencies((1,), (0.010,)), slo_s=0.06, max_batch=1)
    alone = simulate_serving({"m": one}, {"m": poisson(0.8 * 400, 30.0, 3)}, 1, "table").models["m"]
    assert alone.in_time_frac < 0.5


def test_a_delay_makes_larger_batches_of_later_answers() -> None:
    latencies = Latencies((1, 8), (0.010, 0.017))
    times_s = {"m": poisson(100, 20.0)}

    def run(delay: Delay) -> ModelOutcome:
        return simulate_serving({"m": SimModel(latencies, 0.0, 8, delay=delay)}, times_s, 2, "delay").models["m"]

    at_once, delayed, of_four = run(Delay()), run(Delay(0.05)), run(Delay(0.05, (4,)))
    assert at_once.batch_rows.mean() < 2.5 < 4 < delayed.batch_rows.mean()
    assert at_once.latency_s.mean() < of_four.latency_s.mean() < delayed.latency_s.mean()
    assert delayed.latency_s.max() < 0.05 + 2 * 0.017
    assert (of_four.batch_rows == 4).mean() > 0.8


def test_misuse() -> None:
    model = SimModel(Latencies((1,), (1.0,)))
    with pytest.raises(InputError, match="arrivals for"):
        simulate_serving({"m": model}, {"x": np.zeros(1)}, 1, "delay")
    with pytest.raises(InputError, match="unknown policy"):
        simulate_serving({"m": model}, {"m": np.zeros(1)}, 1, "delya")


def test_a_large_model_leaves_a_core_for_a_small_one_with_a_near_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    large = Latencies((1, 32), (0.004, 0.100))  # 25 rows together take as long as 20 alone
    small = Latencies((1, 32), (30e-6, 300e-6))
    models = {"large": SimModel(large, 0.25, 32, 2), "small": SimModel(small, 0.02, 32, 2)}
    arrivals_s = {"large": poisson(700, 5.0), "small": poisson(1000, 5.0, seed=1)}
    kept = simulate_serving(models, arrivals_s, 2, "table").models
    monkeypatch.setattr(Dispatcher, "may_take_s", lambda self, name, now_s: inf)
    not_kept = simulate_serving(models, arrivals_s, 2, "table").models
    assert not_kept["small"].in_time_frac < 0.9
    assert kept["small"].in_time_frac > 0.99
    assert kept["large"].in_time_frac > 0.9 * not_kept["large"].in_time_frac


def test_a_batch_that_costs_the_same_at_any_size_is_shared_rather_than_run_twice() -> None:
    flat, steep = Latencies((1, 32), (0.010, 0.0131)), Latencies((1, 32), (0.010, 0.320))
    times_s = poisson(150, 10.0)

    def n_batches(latencies: Latencies) -> int:
        models = {"m": SimModel(latencies, 0.1, 32, 2)}
        outcome = simulate_serving(models, {"m": times_s}, 2, "table").models["m"]
        assert outcome.in_time_frac > 0.999
        return len(outcome.batch_rows)

    assert n_batches(flat) < 0.65 * len(times_s)
    assert n_batches(steep) > 0.9 * len(times_s)  # where a row costs what it costs there is nothing to wait for
