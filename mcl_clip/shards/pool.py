"""Independent items of work, divided among ranks by a fixed rule and among the processes of one rank."""

import contextlib
import itertools
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import Any

START_METHOD = "fork" if sys.platform == "linux" else "spawn"
"""How readers are started, whatever Python's default: a forked one does not import the main module anew, and, unlike
one of a fork server, sees that its parent was killed."""

_task: Callable[[Any], Any] | None = None


def part_of(items: Sequence[Any], rank: int, world_size: int) -> Sequence[Any]:
    """The run of consecutive items that falls to `rank`: neighbours read the same files."""
    return items[len(items) * rank // world_size : len(items) * (rank + 1) // world_size]


def run(task: Callable[[Any], Any], items: Sequence[Any], workers: int) -> Iterator[tuple[Any, Any]]:
    """Yield (item, task(item)) as they are done, in any order; `workers` processes, 0 or 1 for this one.

    `task` is sent to each process once. An exception of a task is raised here.
    """
    if workers <= 1 or len(items) <= 1:
        for item in items:
            yield item, task(item)
        return
    context = multiprocessing.get_context(START_METHOD)
    with ProcessPoolExecutor(min(workers, len(items)), context, _start, (task, os.getpid())) as pool:
        pending: dict[Any, Any] = {}
        remaining = iter(items)
        try:
            while True:
                for item in itertools.islice(remaining, 4 * workers - len(pending)):
                    pending[pool.submit(_run_task, item)] = item
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    item = pending.pop(future)
                    yield item, future.result()
        finally:
            with contextlib.suppress(RuntimeError):
                pool.shutdown(wait=True, cancel_futures=True)


def _start(task: Callable[[Any], Any], parent: int) -> None:
    global _task
    _task = task
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """A worker whose parent was killed would wait for its next item for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _run_task(item: Any) -> Any:
    assert _task is not None
    return _task(item)
