"""What is made of the answers of a server that refuses: what each request waited for, and since when nothing had happened."""

import numpy as np
import pytest

pytest.importorskip("httptools", reason="the serve extra is not installed")

from jouleflow.load.answers import Answers
from jouleflow.load.front import FrontCost
from jouleflow.load.wakes import idle_and_waited_s


def test_cpu_time_is_no_wait_and_the_answer_before_ends_idling() -> None:
    answers = Answers(
        start_s=[3.0, 1.0, 1.1, 9.0], latency_s=[0.5, 0.4, 0.5, 0.1], status=[503, 503, 200, 503], duration_s=10.0
    )
    idle_s, waited_s = idle_and_waited_s(answers, FrontCost(front_s=0.3, refusal_s=0.15, client_s=0.05))
    # at 1.0 after nothing; the one at 1.1 was answered, at 1.6; so at 3.0 after 1.4 s; at 9.0 after 5.5 s and with no wait
    np.testing.assert_allclose(idle_s, [np.inf, 1.4, 5.5])
    np.testing.assert_allclose(waited_s, [0.2, 0.3, 0.0], atol=1e-12)
    _, waited_s = idle_and_waited_s(answers, FrontCost(front_s=0.3, refusal_s=0.15, client_s=0.05, wake_s=0.1))
    np.testing.assert_allclose(waited_s, [0.1, 0.2, 0.0], atol=1e-12)  # nor is what a loop that has rested takes longer
