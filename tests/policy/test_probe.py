"""After a slow spell a model is tried again: who refuses everything learns nothing."""

from __future__ import annotations

from jouleflow.policy.job import End, Job, Result
from jouleflow.policy.policies import make_policy
from jouleflow.policy.queue import PROBE_S, ModelQueue

SLO_S = 0.1


def slowed_queue(best_s: float) -> ModelQueue:
    """Nothing waits in it; a batch of one took 0.2 s lately, and best_s at best."""
    queue = ModelQueue(make_policy("table"), 1, 1, SLO_S, 100, 1 << 20)
    queue.latencies.start_from(1, best_s)
    for _ in range(64):
        queue.latencies.saw(1, 0.2)
    return queue


def offered(queue: ModelQueue, now_s: float) -> tuple[bool, Job]:
    results: list[Result] = []
    job = Job(None, 0, 1, (), now_s, now_s + SLO_S, 5, results.append)
    taken = queue.offer(job, now_s, 1, 0.0)
    assert taken or results[0].end is End.REJECTED
    return taken, job


def run(queue: ModelQueue, now_s: float, seconds: float) -> None:
    head = queue.head(now_s)
    assert head is not None
    assert queue.decide(head, now_s).n_rows == 1  # a policy must not give it up
    batch = queue.take(head, 1, now_s)
    queue.batch_ended(batch, 1, now_s, now_s + seconds)


def test_one_request_is_tried_now_and_then_and_the_model_recovers() -> None:
    queue, now_s, tried = slowed_queue(0.02), 0.0, 0
    for step in range(400):
        now_s = step * PROBE_S / 4
        taken, _ = offered(queue, now_s)
        if taken:
            tried += 1
            run(queue, now_s, 0.02)
    assert tried > 200  # one in four until it is known to be fast, then all
    queue = slowed_queue(0.02)
    taken = [offered(queue, k * PROBE_S / 4)[0] for k in range(8)]
    assert taken == [True] + [False] * 7  # while one waits, no other is tried


def test_a_model_that_was_slow_from_the_start_is_tried_rarely() -> None:
    """Its warm-up may have been in a slow spell."""
    queue, n_tried = slowed_queue(0.15), 0
    for step in range(100):
        if offered(queue, step * PROBE_S)[0]:
            n_tried += 1
            run(queue, step * PROBE_S, 0.15)
    assert n_tried == 10  # in 50 s


def test_a_deadline_of_its_own_that_cannot_be_met_is_not_tried() -> None:
    queue = slowed_queue(0.15)
    for step in range(100):
        job = Job(None, 0, 1, (), float(step), step + 0.01, 5, lambda _: None)
        assert not queue.offer(job, float(step), 1, 0.0)
