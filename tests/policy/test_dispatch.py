"""Cores are given out: a batch has one of its own, the one that knows its model if it is free."""

from jouleflow.policy.batch import Decision, Finished, Table, View
from jouleflow.policy.dispatch import SHORT_S, Dispatcher, Start
from jouleflow.policy.queue import ModelQueue
from tests.policy.test_batch import job, queue


def test_each_batch_has_a_core_of_its_own_and_a_model_returns_to_its_own() -> None:
    dispatcher = Dispatcher(3)
    for name in "abc":
        dispatcher.queues[name] = queue("table")
    a, b, c = (start(dispatcher, name) for name in "abc")
    assert {a.core, b.core, c.core} == {0, 1, 2}
    for ended in (b, c, a):
        dispatcher.ended(ended)
    again = [start(dispatcher, name).core for name in "cab"]
    assert again == [c.core, a.core, b.core]


def test_another_model_takes_the_core_that_was_free_for_longest() -> None:
    dispatcher = Dispatcher(2)
    for name in "abc":
        dispatcher.queues[name] = queue("table")
    a, b = start(dispatcher, "a"), start(dispatcher, "b")
    dispatcher.ended(b)
    dispatcher.ended(a)
    assert start(dispatcher, "c").core == b.core


def test_a_batch_beyond_the_cores_has_none_and_gives_none_back() -> None:
    dispatcher = Dispatcher(1)
    q = dispatcher.queues["a"] = queue("table")
    first = start(dispatcher, "a")
    more = forced(dispatcher, q)
    assert (first.core, more.core) == (0, None)
    dispatcher.ended(more)
    other = forced(dispatcher, q)
    assert other.core is None
    dispatcher.ended(first)
    dispatcher.ended(other)
    assert start(dispatcher, "a").core == 0


def test_short_batches_are_left_to_the_system_unless_a_long_one_runs() -> None:
    dispatcher = Dispatcher(2)
    for name, seconds in (("short", SHORT_S / 2), ("long", SHORT_S * 2)):
        dispatcher.queues[name] = queue("table")
        dispatcher.queues[name].latencies.start_from(1, seconds)
    one = start(dispatcher, "short")
    assert (one.core, start(dispatcher, "short").core) == (None, None)
    dispatcher.ended(one)
    long = start(dispatcher, "long")
    assert long.core is not None
    dispatcher.ended(dispatcher.running[0])
    assert start(dispatcher, "short").core == 1 - long.core


def test_a_policy_hears_which_batches_ran_alone() -> None:
    class Hears:
        def __init__(self) -> None:
            self.table, self.heard = Table(), list[bool]()

        def decide(self, view: View) -> Decision:
            return self.table.decide(view)

        def finished(self, batch: Finished) -> None:
            self.heard.append(batch.alone)

    q = queue("table")
    hears, dispatcher = Hears(), Dispatcher(2)
    q.policy = hears
    dispatcher.queues.update(m=q, other=queue("table"))

    def began(name: str, now_s: float) -> Start:
        made, _ = job(now_s)
        dispatcher.offer(dispatcher.queues[name], made, now_s)
        found = dispatcher.start(name, dispatcher.queues[name], made, 1, now_s)
        assert found is not None
        return found

    def ended(start: Start, now_s: float) -> None:
        start.queue.batch_ended(start.batch, 1, start.started_s, now_s)
        dispatcher.ended(start)

    first, second = began("m", 0.0), began("m", 1.0)
    ended(first, 2.0)
    ended(second, 3.0)  # the last second of it alone
    third, other = began("m", 3.0), began("other", 3.0)
    ended(third, 4.0)
    ended(other, 4.0)
    assert hears.heard == [False, False, True]


class GivesUpNobody:
    """Gives up those before the deadline of the first, who is not before it himself."""

    def decide(self, view: View) -> Decision:
        return Decision(0, view.now_s, view.n_instances, give_up_s=view.deadline_s)

    def finished(self, batch: Finished) -> None:
        """Learns nothing."""


def test_giving_up_nobody_is_not_tried_for_ever() -> None:
    dispatcher = Dispatcher(1)
    dispatcher.queues["a"] = ModelQueue(GivesUpNobody(), 8, 1, 0.1, 100, 1000)
    dispatcher.queues["b"] = queue("table")
    for name, deadline_s in (("a", 1.0), ("b", 2.0)):
        assert dispatcher.offer(dispatcher.queues[name], job(0.0, deadline_s)[0], 0.0)
    found = dispatcher.next(0.0)
    assert found is not None
    assert found.name == "b"


def start(dispatcher: Dispatcher, name: str) -> Start:
    assert dispatcher.offer(dispatcher.queues[name], job(0.0, 1.0)[0], 0.0)
    found = dispatcher.next(0.0)
    assert found is not None
    assert found.name == name
    return found


def forced(dispatcher: Dispatcher, q: ModelQueue) -> Start:
    """As a model that is taken out of service runs what it took."""
    dispatcher.offer(q, job(0.0, 1.0)[0], 0.0)
    head = q.head(0.0)
    assert head is not None
    found = dispatcher.start("a", q, head, 1, 0.0)
    assert found is not None
    return found
