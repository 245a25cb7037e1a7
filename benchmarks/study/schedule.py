"""Run units of work in processes, each as soon as what it needs is there; what stands already is not run again."""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm


@dataclass(frozen=True)
class Unit:
    """`run(*arguments)` writes `done`, a file that is whole or absent, from the files `needs`; `weight` is for the
    progress bar.
    """

    done: Path
    run: Callable[..., None]
    arguments: tuple
    needs: tuple[Path, ...] = ()
    weight: int = 1


def run_all(units: Sequence[Unit], *, processes: int, progress: bool, what: str = "shares of compute") -> None:
    """Run all units that are not done, `processes` at a time, earlier ones first."""
    waiting = [unit for unit in dict.fromkeys(units) if not unit.done.is_file()]
    done = {path for unit in units for path in (unit.done, *unit.needs) if path.is_file()}
    running: dict[Future, Unit] = {}
    if not waiting:
        return
    with (
        ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _leave_with_parent) as pool,
        tqdm(total=sum(unit.weight for unit in waiting), desc=what, disable=not progress) as bar,
    ):
        while waiting or running:
            for unit in [unit for unit in waiting if done.issuperset(unit.needs)][: processes - len(running)]:
                running[pool.submit(unit.run, *unit.arguments)] = unit
                waiting.remove(unit)
            assert running, f"nothing makes what these need: {[str(unit.done) for unit in waiting]}"
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                future.result()
                unit = running.pop(future)
                done.add(unit.done)
                bar.update(unit.weight)


def _leave_with_parent() -> None:
    """In a worker: end when the process that asked for work does, however it ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
