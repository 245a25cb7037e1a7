"""Jobs in processes of their own that may die: forked from a server which has imported everything once."""

import importlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["training.main", "tests.distributed", "tests.jobs"])
# Each names a moment at which something on the disk changes or is about to.
EVENTS = frozenset(
    {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.listdir", "os.scandir"}
)


def start(
    arguments: Sequence[str],
    log: Path,
    rank: int = 0,
    world_size: int = 1,
    port: int = 0,
    die_at: int = 0,
    before: Callable[[int], None] | None = None,
    module: str = "training.main",
):
    """A process that runs the command line of `module` as one rank of a job, in which `before(rank)` is called first.

    With `die_at`, it gets SIGKILL at that event of `EVENTS`.
    """
    process = CONTEXT.Process(
        target=_run, args=(list(arguments), str(log), rank, world_size, port, die_at, None, before, module)
    )
    process.start()
    return process


def patience(seconds: float) -> float:
    """So many seconds on a machine to itself; longer by as many processes as there are to each core."""
    return seconds * max(1.0, 2 * os.getloadavg()[0] / (os.cpu_count() or 1))


def run_job(
    arguments: Sequence[str],
    log: Path,
    world_size: int = 1,
    timeout: float = 900,
    before: Callable[[int], None] | None = None,
    module: str = "training.main",
) -> list[int]:
    """Run a job of several ranks to its end, as under torchrun; exit statuses by rank, negative for a signal."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [start(arguments, log, rank, world_size, port, before=before, module=module) for rank in range(world_size)]
    return [finish(process, timeout) for process in ranks]


def finish(process, timeout: float = 900) -> int:
    """Wait for a process; its exit status, negative for a signal."""
    process.join(timeout)
    if process.is_alive():
        process.kill()
        raise TimeoutError("the job did not end")
    return process.exitcode


def wait_for(condition: Callable[[], bool], timeout: float = 600) -> None:
    """Poll until `condition()`."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the job did not get there")
        time.sleep(0.01)


def count_events(arguments: Sequence[str], log: Path) -> int:
    """Events of `EVENTS` in an uninterrupted run."""
    counter = CONTEXT.Value("q", 0)
    process = CONTEXT.Process(target=_run, args=(list(arguments), str(log), 0, 1, 0, 0, counter))
    process.start()
    assert finish(process) == 0, log.read_text()
    return counter.value


def _run(
    arguments, log, rank, world_size, port, die_at, counter=None, before=None, module: str = "training.main"
) -> None:
    import torch

    main = importlib.import_module(module).main
    # As a command starts them: readers forked from a server would outlive a killed job, and import everything anew.
    multiprocessing.set_start_method("fork", force=True)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    if world_size > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    seen, owner = 0, os.getpid()

    def watch(event: str, _) -> None:
        nonlocal seen
        if event in EVENTS and os.getpid() == owner:  # the hook is inherited by worker processes
            seen += 1
            if seen == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    if die_at or counter is not None:
        sys.addaudithook(watch)
    if before is not None:
        before(rank)
    status = main(arguments)
    if counter is not None:
        counter.value = seen
    sys.exit(status)
