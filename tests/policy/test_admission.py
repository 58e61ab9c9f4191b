"""What may come in: the limit follows what became of those that were nearly refused."""

import numpy as np
import pytest

from jouleflow.policy.admission import FIRST_FRAC, LEAST_FRAC, MOST_FRAC, RESERVE_FRAC, Admission
from jouleflow.policy.job import Job


def job(arrived_s=0.0, limit_s=1.0):
    return Job(None, 0, 1, (), arrived_s, arrived_s + limit_s, 0, lambda _: None)


def settle(admission, error, n=4000, every_s=0.02):
    """Requests that always come up to the limit, as under overload; their latency is what was expected times an error."""
    random, n_late = np.random.default_rng(0), 0
    for k in range(n):
        one = job(k * every_s)
        assert admission.late_s(one, admission.frac * 0.99, one.arrived_s) <= 0
        latency = admission.frac * 0.99 * error(random)
        n_late += k >= n // 2 and latency > 1 - RESERVE_FRAC
        admission.ended(one, one.arrived_s + latency)
    return n_late / (n - n // 2)


def test_the_first_limit():
    assert Admission().late_s(job(), FIRST_FRAC * 1.01, 0.0) > 0
    assert Admission().late_s(job(), FIRST_FRAC * 0.99, 0.0) <= 0


def test_it_settles_where_few_are_late():
    admission = Admission()
    late_frac = settle(admission, lambda random: random.normal(1.3, 0.15))
    assert 0.005 < late_frac < 0.04
    assert 0.5 < admission.frac < 0.7


def test_good_estimates_fill_the_time():
    admission = Admission()
    assert settle(admission, lambda random: random.normal(1.0, 0.01)) < 0.001
    assert admission.frac == MOST_FRAC


def test_it_stops_somewhere_when_all_are_late():
    admission = Admission()
    assert settle(admission, lambda random: 10.0) == 1.0
    assert admission.frac == LEAST_FRAC


def test_a_slow_moment_is_forgotten():
    admission = Admission()
    settle(admission, lambda random: 10.0, n=100)
    assert admission.frac == LEAST_FRAC
    for k in range(40):  # with little to do, nobody is near the limit
        admission.late_s(job(3.0 + k), 0.01, 3.0 + k)
    assert LEAST_FRAC + 0.15 < admission.frac < FIRST_FRAC
    for k in range(40, 200):
        admission.late_s(job(3.0 + k), 0.01, 3.0 + k)
    assert admission.frac == FIRST_FRAC


def test_requests_far_from_the_limit_say_nothing():
    admission = Admission()
    easy = job()
    admission.late_s(easy, 0.1, 0.0)
    admission.ended(easy, 5.0)
    assert admission.frac == FIRST_FRAC


def test_given_up_counts_as_late():
    admission = Admission()
    one = job()
    admission.late_s(one, 0.79, 0.0)
    admission.ended(one, 0.1, late=True)
    assert admission.frac < FIRST_FRAC


@pytest.mark.parametrize("late_after_s", [0.96, 1.5])
def test_the_way_back_is_counted(late_after_s):
    admission = Admission()
    one = job()
    admission.late_s(one, 0.79, 0.0)
    admission.ended(one, late_after_s)
    assert admission.frac < FIRST_FRAC
