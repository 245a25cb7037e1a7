"""Files written behind the work: in order, bounded, and with their errors."""

import threading

import pytest

from mcl_clip.clustering.behind import AHEAD, written_behind


def test_calls_run_in_order_on_one_thread_and_all_by_the_end():
    done, threads = [], set()

    def call(number):
        threads.add(threading.current_thread())
        done.append(number)

    with written_behind() as write:
        for number in range(50):
            write(call, number)
    assert done == list(range(50)) and len(threads) == 1 and threads != {threading.current_thread()}


def test_the_work_goes_on_while_something_is_written_and_waits_when_too_much_is():
    begun, go_on, handed = threading.Event(), threading.Event(), []

    def slow():
        begun.set()
        assert go_on.wait(60)

    def work():
        with written_behind() as write:
            for number in range(AHEAD + 3):
                write(slow)
                handed.append(number)

    worker = threading.Thread(target=work)
    worker.start()
    assert begun.wait(60)
    while len(handed) < AHEAD:  # handed over though the first is still being written
        worker.join(0.01)
    worker.join(0.2)
    assert len(handed) == AHEAD and worker.is_alive()
    go_on.set()
    worker.join(60)
    assert len(handed) == AHEAD + 3


def test_an_error_is_raised_and_nothing_is_written_after_it():
    done = []

    def call(number):
        if number == 3:
            raise OSError("the disk is full")
        done.append(number)

    with pytest.raises(OSError, match="the disk is full"), written_behind() as write:
        for number in range(100):
            write(call, number)
    assert done == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is full"), written_behind() as write:
        write(call, 3)
        write(call, 4)
    assert done == [0, 1, 2]


def test_an_error_of_the_work_goes_first():
    with pytest.raises(ValueError, match="of the work"), written_behind() as write:
        write(lambda: None)
        raise ValueError("of the work")
