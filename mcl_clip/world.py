"""The ranks of a job as the library needs them: one decides, all hear of it."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mcl_clip.errors import UserError

T = TypeVar("T")
SEEN_AFTER = 90.0  # seconds; network file systems keep a listing for up to 60


class World:
    """A job of one process; one of several ranks is a subclass, such as `training.ranks.Ranks`.

    All ranks call its methods in the same order; each waits, however long. Whatever depends on what stands on the disk
    is decided by the first rank and shared, because others may still see an older listing. Values are those of JSON.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """True on the rank that decides, and writes what is written once."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""

    def share(self, value: Callable[[], T]) -> T:
        """What `value` gives on the first rank, on all ranks; so is a `UserError` that it raises there."""
        return value()

    def hear(self) -> None:
        """Raise what another rank has failed by, if one has."""

    def gather(self, value: T) -> list[T]:
        """What every rank gives, by rank, on the first one; an empty list elsewhere."""
        return [value]


def appears(path: str | os.PathLike, world: World | None = None, seconds: float = SEEN_AFTER) -> Path:
    """`path`, which another rank of the `world` has made, as soon as it is seen here.

    `UserError` when it is not within `seconds`, or what another rank fails by, which may take it away again.
    """
    path, deadline = Path(path), time.monotonic() + seconds
    while not path.exists():
        if world:
            world.hear()
        if time.monotonic() > deadline:
            raise UserError(f"{path} was made by another rank, but is not seen here: all machines must share its disk")
        time.sleep(0.2)
        if path.parent.is_dir():
            os.listdir(path.parent)  # which asks the server anew
    return path
