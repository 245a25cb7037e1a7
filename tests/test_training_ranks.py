"""Waiting outside of training steps outlasts any timeout of collectives; what one rank knows reaches all."""

import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from mcl_clip.errors import UserError
from tests.distributed import run_ranks
from training.ranks import RankLost, Ranks


def ranks_of(rank, world_size, **timeout):
    store = dist.PrefixStore("test", dist.distributed_c10d._get_default_store())
    return Ranks(rank, world_size, store=store, control=dist.new_group(backend="gloo", **timeout))


def outlast_the_timeout(rank, world_size):
    ranks = ranks_of(rank, world_size, timeout=timedelta(seconds=1))
    found = ranks.on_first(lambda: time.sleep(2.5) or "done")
    mean = ranks.mean([rank, 3.0])
    # The same wait as a collective: what the store's polls are for.
    if rank == 0:
        time.sleep(2.5)
        return found, mean, None
    try:
        dist.all_reduce(torch.ones(1), group=ranks.control)
    except RuntimeError as error:
        return found, mean, str(error)


def test_a_phase_without_collectives_outlasts_their_timeout():
    first, second = run_ranks(outlast_the_timeout, 2)
    assert first == ("done", [0.5, 3.0], None)
    assert second[:2] == (None, [0.5, 3.0]) and "imed out" in second[2]


def fail_on_one(rank, world_size):
    ranks = ranks_of(rank, world_size)
    assert ranks.share(lambda: f"of rank {rank}") == "of rank 0"
    if rank == 1:
        assert ranks.lose(1, KeyError("a bug")) is None
        return None
    with pytest.raises(RankLost, match=r"rank 1 failed.*a bug") as lost:
        ranks.barrier()
    assert lost.value.status == 1
    # What fails here because of that is not the cause.
    return str(ranks.lose(1, RuntimeError("connection closed")))


def test_a_rank_that_waits_hears_of_the_one_that_failed():
    assert "rank 1 failed (KeyError: 'a bug')" in run_ranks(fail_on_one, 2)[0]


def mistake_on_one(rank, world_size):
    ranks = ranks_of(rank, world_size)
    if rank == 1:
        return ranks.fail(UserError("a mistake"))
    with pytest.raises(UserError, match="a mistake"):
        ranks.barrier()
    speaks = ranks.fail(UserError("a mistake"))
    ranks.told()
    return speaks


def test_a_mistake_is_said_by_the_first_rank_whoever_made_it():
    assert run_ranks(mistake_on_one, 2) == [True, False]
