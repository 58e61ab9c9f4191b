"""The table has a try when the net fails, keeps what it earns, and is not asked while all is well."""

from math import inf

import numpy as np

from jouleflow.policy.bcedge import CHOICES, BcEdge, Choice
from jouleflow.policy.policies import make_policy
from jouleflow.policy.second_opinion import RUN_SLOTS, TRY_SLOTS, SecondOpinion
from jouleflow.profile.latencies import Latencies
from jouleflow.sim.serving import Front, SimModel, simulate_with

N = 100  # requests of a slot


def table_share(net_frac: float, table_frac: float, n_slots: int) -> float:
    """Of the slots, those that the table decides, when each of them gets so many requests done in time."""
    opinion, n_table = SecondOpinion(), 0
    for _ in range(n_slots):
        n_table += opinion.table_decides
        opinion.slot_ended(N, round(N * (table_frac if opinion.table_decides else net_frac)))
    return n_table / n_slots


def test_nobody_asks_while_requests_are_in_time() -> None:
    assert table_share(0.99, 1.0, 1000) == 0


def test_who_has_more_in_time_decides() -> None:
    assert table_share(0.5, 0.9, 2000) > 0.9
    assert table_share(0.5, 0.4, 2000) < 0.1
    assert table_share(0.5, 0.505, 2000) < 0.1  # nothing to choose between them: the net goes on


def test_who_is_worth_more_decides_when_as_many_are_in_time() -> None:
    def n_table(net_reward: float, table_reward: float, table_frac: float = 0.9) -> int:
        opinion, n_table = SecondOpinion(), 0
        for _ in range(2000):
            n_table += opinion.table_decides
            frac, reward = (table_frac, table_reward) if opinion.table_decides else (0.9, net_reward)
            opinion.slot_ended(N, round(N * frac), reward)
        return n_table

    assert n_table(-2.0, -1.0) > 1800
    assert n_table(-1.0, -2.0) < 200
    assert n_table(-1.0, -1.0) < 200
    assert n_table(-2.0, -1.0, table_frac=0.85) < 200  # those in time come first


def test_the_net_gets_another_chance() -> None:
    opinion = SecondOpinion()
    decided = []
    for k in range(40 * RUN_SLOTS):
        decided.append(opinion.table_decides)
        net_frac = 0.5 if k < 2 * TRY_SLOTS + 10 else 1.0  # what troubled it is over
        opinion.slot_ended(N, N if opinion.table_decides else round(N * net_frac))
    assert any(decided)
    assert not any(decided[-20 * RUN_SLOTS :])


def test_a_winner_that_gets_worse_is_asked_at_once() -> None:
    opinion = SecondOpinion()
    for _ in range(20):
        opinion.slot_ended(N, N // 2)  # a slow moment, in which both fail alike: the net goes on
    while opinion._trying:
        opinion.slot_ended(N, N // 2)
    assert not opinion.table_decides
    for _ in range(5):
        opinion.slot_ended(N, N // 4)
    assert opinion.table_decides
    for _ in range(TRY_SLOTS + TRY_SLOTS + 1):
        opinion.slot_ended(N, N if opinion.table_decides else N // 4)
    assert opinion.table_decides


def test_a_winner_of_an_overload_is_asked_again_when_the_load_falls() -> None:
    """Who got a tenth done of ten times too much may be the wrong one for a load that can be held."""
    opinion = SecondOpinion()
    for _ in range(20 * RUN_SLOTS):
        opinion.slot_ended(N, N // 10)  # both fail alike, again and again: the net goes on for longer and longer
    while opinion._trying or opinion.table_decides or opinion._n_left < 2 * RUN_SLOTS:
        opinion.slot_ended(N, N // 10)
    n_table = 0
    for _ in range(4 * TRY_SLOTS):
        n_table += opinion.table_decides
        opinion.slot_ended(N, N if opinion.table_decides else round(0.8 * N))
    assert opinion.table_decides
    assert n_table > 2 * TRY_SLOTS


def test_a_winner_that_stays_as_good_as_it_was_is_left_alone() -> None:
    random, opinion, n_table = np.random.default_rng(0), SecondOpinion(), 0
    for _ in range(3000):
        n_table += opinion.table_decides
        opinion.slot_ended(25, int(random.binomial(25, 0.2 if opinion.table_decides else 0.3)))
    assert n_table < 300


def test_slots_without_requests_say_nothing() -> None:
    opinion = SecondOpinion()
    for _ in range(1000):
        opinion.slot_ended(0, 0)
        assert not opinion.table_decides


def test_a_net_that_leaves_a_core_idle_under_overload_is_overruled() -> None:
    """Once by what it does, and where that is not seen, by what comes of it."""
    latencies = Latencies((1, 2, 4, 8, 16), tuple(n * 2.65e-3 for n in (1, 2, 4, 8, 16)))
    box = {"m": SimModel(latencies, 0.05, 16, 2, front=Front(15e-6, 15e-6, 20e-6, 10e-6))}
    times_s = {"m": np.cumsum(np.random.default_rng(0).exponential(1 / 1500, 12_000))}

    def in_time_frac(policy: object) -> float:
        return simulate_with(box, times_s, 2, {"m": policy}).models["m"].in_time_frac

    def small_and_alone(_: object) -> int:
        return CHOICES.index(Choice(2, 1, False))

    table, unseen = in_time_frac(make_policy("table")), inf
    assert in_time_frac(BcEdge(small_and_alone)) > 0.98 * table
    assert in_time_frac(BcEdge(small_and_alone, more_by=unseen)) > 0.85 * table
    never = SecondOpinion(_n_left=10**9, _trying=True)
    assert in_time_frac(BcEdge(small_and_alone, second_opinion=never, more_by=unseen)) < 0.65 * table
