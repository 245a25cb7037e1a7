"""What a scorer is: a command of its own and a task of mcl-eval, by the same code."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eval.models import ScoredModel

Results = list[dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """A scorer by its parts; mcl-NAME is its command.

    place: the flag that says where the data are. headline: of results the metrics in mcl-eval's table, `columns` those
    in the command's own. `open` reads the data that the flags of `add_arguments` name, `score` scores them;
    both raise `UserError`, and find `batch_size`, `limit`, `rank`, `world_size` and `progress` among the arguments.
    shares_images: whether several ranks score it together; else the first does alone. `also_write` writes, on the first
    rank, what flags ask for beside the scores file.
    """

    name: str
    description: str
    examples: tuple[str, str]
    place: str
    headline: Callable[[Results], list[str]]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    open: Callable[[argparse.Namespace], Any]
    score: Callable[[ScoredModel, Any, argparse.Namespace], Results]
    columns: Callable[[Results], list[str]]
    shares_images: bool = False
    also_write: Callable[[Results, argparse.Namespace], None] | None = None

    def results(self, scored: ScoredModel, data: Any, args: argparse.Namespace) -> Results:
        """What `score` gives; a limit of the samples is recorded."""
        rows = self.score(scored, data, args)
        rows = rows if args.limit is None else [row | {"limit": args.limit} for row in rows]
        if self.also_write and args.rank == 0:
            self.also_write(rows, args)
        return rows
