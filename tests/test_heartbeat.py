"""A rank that is silent ends a job of several machines; one that is stopped with its clock does not."""

import os
import signal
import time

import pytest
import torch.distributed as dist

from mcl_clip.errors import UserError
from tests.jobs import CONTEXT, finish, patience
from training.heartbeat import Heartbeat, start_heartbeat


def _rank(rank, port, seconds, lives, log):
    if rank == 0:
        store = dist.TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)  # noqa: F841  serves while it lives
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    beat = Heartbeat("127.0.0.1", port, rank, 2, seconds)
    time.sleep(lives)
    beat.stop()


def start_two(tmp_path, port, seconds, lives):
    logs = [str(tmp_path / f"log-{rank}") for rank in (0, 1)]
    ranks = [CONTEXT.Process(target=_rank, args=(rank, port, seconds, lives, logs[rank])) for rank in (0, 1)]
    ranks[0].start()
    time.sleep(patience(1))
    ranks[1].start()
    return ranks


@pytest.fixture
def port():
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("silent", [0, 1])
def test_the_other_rank_ends_by_itself_and_says_why(tmp_path, port, silent):
    ranks = start_two(tmp_path, port, patience(2), 600)
    time.sleep(patience(1))
    os.kill(ranks[silent].pid, signal.SIGSTOP)
    assert finish(ranks[1 - silent], 240) == 1
    os.kill(ranks[silent].pid, signal.SIGKILL)
    who = "the first rank" if silent == 0 else "rank 1"
    told = (tmp_path / f"log-{1 - silent}").read_text()
    assert f"rank {1 - silent} ends: {who} has not answered for" in told and "the same command goes on" in told


def test_what_is_stopped_as_a_whole_goes_on(tmp_path, port):
    """As a suspended machine, or a job under a debugger."""
    ranks = start_two(tmp_path, port, patience(2), patience(12))
    time.sleep(patience(1))
    for process in ranks:
        os.kill(process.pid, signal.SIGSTOP)
    time.sleep(patience(5))
    for process in ranks:
        os.kill(process.pid, signal.SIGCONT)
    assert [finish(process, 240) for process in ranks] == [0, 0], (tmp_path / "log-0").read_text()


def test_one_machine_needs_none_and_nonsense_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert start_heartbeat(0, 4) is None
    for told in ("soon", "0", "inf"):
        monkeypatch.setenv("MCL_HOST_TIMEOUT", told)
        with pytest.raises(UserError, match=f"MCL_HOST_TIMEOUT={told} is not a number of seconds"):
            start_heartbeat(0, 8)
