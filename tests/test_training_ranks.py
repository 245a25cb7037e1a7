"""Waiting outside of training steps outlasts any timeout of collectives; what one rank knows reaches all."""

import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from mcl_clip.errors import UserError
from mcl_clip.world import appears
from tests.distributed import run_ranks
from training.endings import end
from training.ranks import RankLost, Ranks


def one_job(rank, world_size):
    """What happens to two ranks in one job, by scene."""
    scenes = (outlast_the_timeout, fail_on_one, mistake_on_one, take_away_again, bug_in_a_command)
    return {scene: scene(ranks_of(rank, world_size, scene.__name__)) for scene in scenes}


@pytest.fixture(scope="module")
def seen():
    return run_ranks(one_job, 2)


def ranks_of(rank, world_size, name):
    store = dist.PrefixStore(name, dist.distributed_c10d._get_default_store())
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=1 if "timeout" in name else 60))
    return Ranks(rank, world_size, store=store, control=group)


def outlast_the_timeout(ranks):
    found = ranks.on_first(lambda: time.sleep(2.5) or "done")
    mean = ranks.mean([ranks.rank, 3.0])
    # The same wait as a collective: what the store's polls are for.
    if ranks.is_first:
        time.sleep(2.5)
        return found, mean, None
    try:
        dist.all_reduce(torch.ones(1), group=ranks.control)
    except RuntimeError as error:
        return found, mean, str(error)


def test_a_phase_without_collectives_outlasts_their_timeout(seen):
    first, second = (each[outlast_the_timeout] for each in seen)
    assert first == ("done", [0.5, 3.0], None)
    assert second[:2] == (None, [0.5, 3.0]) and "imed out" in second[2]


def fail_on_one(ranks):
    assert ranks.share(lambda: f"of rank {ranks.rank}") == "of rank 0"
    if ranks.rank == 1:
        return ranks.lose(1, KeyError("a bug"))
    with pytest.raises(RankLost) as lost:
        ranks.barrier()
    # What fails here because of that is not the cause.
    return lost.value.status, str(lost.value), str(ranks.lose(1, RuntimeError("connection closed")))


def test_a_rank_that_waits_hears_of_the_one_that_failed(seen):
    message = "rank 1 failed (KeyError: 'a bug')"
    assert [each[fail_on_one] for each in seen] == [(1, message, message), None]


def mistake_on_one(ranks):
    if ranks.rank == 1:
        speaks = ranks.fail(UserError("a mistake"))
    else:
        with pytest.raises(UserError, match="a mistake"):
            ranks.barrier()
        speaks = ranks.fail(UserError("a mistake"))
    ranks.told()
    # Nor is it a bug of this rank that a collective with the other one then fails.
    return speaks, ranks.lose(1, RuntimeError("connection closed")).status


def test_a_mistake_is_said_by_the_first_rank_whoever_made_it(seen):
    assert [each[mistake_on_one] for each in seen] == [(True, 2), (False, 2)]


def take_away_again(ranks):
    if ranks.is_first:  # a refused run's new directory is removed
        return ranks.fail(UserError("a mistake"))
    with pytest.raises(UserError, match="a mistake"):
        appears("/nowhere/manifest.json", ranks)


def test_a_rank_that_waits_for_a_file_hears_why_it_does_not_come(seen):
    assert [each[take_away_again] for each in seen] == [True, None]


def bug_in_a_command(ranks):
    if ranks.rank == 1:
        with pytest.raises(KeyError):
            end(ranks, KeyError("a bug"))
        return None
    with pytest.raises(RankLost) as lost:
        ranks.barrier()
    return end(ranks, lost.value)


def test_a_bug_ends_the_ranks_that_wait(seen):
    assert [each[bug_in_a_command] for each in seen] == [1, None]
