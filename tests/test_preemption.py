"""Signals that ask a job to end."""

import os
import signal

import pytest

from training.preemption import SIGNALS, Preempted, Preemption


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_both_signals_are_heard_deferred_and_given_back(number):
    before = [signal.getsignal(each) for each in SIGNALS]
    with Preemption() as preemption, preemption.deferred():
        os.kill(os.getpid(), number)
        assert preemption.requested
        with pytest.raises(Preempted), preemption.prompt():
            pass
    with Preemption(), pytest.raises(Preempted):
        os.kill(os.getpid(), number)
    assert [signal.getsignal(each) for each in SIGNALS] == before
