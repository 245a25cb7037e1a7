"""The tests' own process pool: a failure is told once, and soon."""

import os

import pytest

from tests.distributed import once, run_ranks


def die_on_one(rank, world_size):
    if rank == 1:
        os._exit(7)
    return rank


def test_a_rank_that_dies_is_told_at_once():
    with pytest.raises(AssertionError, match=r"rank 1 died with status 7|rank 0 failed"):
        run_ranks(die_on_one, 2)


def test_what_failed_once_is_not_tried_again():
    calls = []

    @once
    def spawn(world_size):
        calls.append(world_size)
        raise RuntimeError("no port is free")

    for world_size in (2, 2, 4):
        with pytest.raises(RuntimeError, match="no port is free"):
            spawn(world_size)
    assert calls == [2, 4]
