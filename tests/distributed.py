"""Real gloo processes for tests: every rank runs one function, its results come back in rank order."""

import functools
import os
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from tests.jobs import CONTEXT
from training.ranks import Ranks

T = TypeVar("T")


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 600.0) -> list[Any]:
    """Run `function(rank, world_size, *args)` in `world_size` processes with a gloo group.

    Returns the results (picklable; tensors as numpy) by rank. The first failure is raised with its traceback, a process
    that died without one at once; the timeout is for ranks that hang, and may be long. `function` must be defined at
    the top of a module.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = CONTEXT.SimpleQueue()
    ranks = [
        CONTEXT.Process(
            target=_rank, args=(dict(os.environ), function, rank, world_size, port, args, results), daemon=True
        )
        for rank in range(world_size)
    ]
    for process in ranks:
        process.start()
    collected: dict[int, Any] = {}
    deadline = time.monotonic() + timeout
    try:
        while len(collected) < world_size:
            ended = [rank for rank, process in enumerate(ranks) if not process.is_alive() and rank not in collected]
            if not results._reader.poll(0 if ended else 1):
                if ended:
                    raise AssertionError(f"rank {ended[0]} died with status {ranks[ended[0]].exitcode}")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"ranks {sorted(set(range(world_size)) - set(collected))} gave no result")
                continue
            rank, failure, value = results.get()
            if failure:
                raise AssertionError(f"rank {rank} failed:\n{failure}")
            collected[rank] = value
    finally:
        for process in ranks:
            process.join(5 if len(collected) == world_size else 0)
            if process.is_alive():
                process.kill()
    return [collected[rank] for rank in range(world_size)]


def once(function: Callable[..., T]) -> Callable[..., T]:
    """`functools.cache` for exceptions too: ranks that fail to start fail once, not anew in every test."""
    kept: dict[Any, tuple[T | None, BaseException | None]] = {}

    @functools.wraps(function)
    def cached(*args: Any) -> Any:
        if args not in kept:
            try:
                kept[args] = (function(*args), None)
            except Exception as error:
                kept[args] = (None, error)
        value, error = kept[args]
        if error:
            raise error
        return value

    return cached


def _rank(environment, function, rank, world_size, port, args, results):
    os.environ.update(environment)  # the server has that of its start
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size)
        value = function(rank, world_size, *args)
        dist.barrier()
        results.put((rank, None, value))
    except Exception:
        results.put((rank, traceback.format_exc(), None))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def world_of(rank: int, world_size: int, name: str = "world") -> Ranks:
    """The ranks of the gloo group as the library takes them."""
    return Ranks(rank, world_size, store=dist.PrefixStore(name, dist.distributed_c10d._get_default_store()))
