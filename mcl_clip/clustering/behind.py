"""Files written behind the work: on one thread, in order, while the next shard is embedded."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

AHEAD = 2  # of what waits to be written, beside what is; each holds a shard's features


@contextlib.contextmanager
def written_behind() -> Iterator[Callable[..., None]]:
    """Inside, `write(function, *arguments)` calls the function on a thread of its own, one call after the other.

    An exception of a call is raised by the next `write` that waits for it, or at the end, and no later call is made.
    Everything is written when the context ends without one.
    """
    pending: deque[Future] = deque()
    failed: list[BaseException] = []

    def call(function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if failed:
            return
        try:
            function(*arguments)
        except BaseException as error:
            failed.append(error)
            raise

    with ThreadPoolExecutor(1, thread_name_prefix="written-behind") as pool:

        def write(function: Callable[..., None], *arguments: Any) -> None:
            pending.append(pool.submit(call, function, arguments))
            while len(pending) > AHEAD or (pending and pending[0].done()):
                pending.popleft().result()

        try:
            yield write
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        for future in pending:
            future.result()
