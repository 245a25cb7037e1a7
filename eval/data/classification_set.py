"""What every kind of image classification set is turned into."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from eval.data.images import Sample


@dataclass(frozen=True)
class ClassificationSet:
    """Images with class numbers. A template holds the class name at `{}` or `{c}`.

    samples: starts a new pass; nothing is read before a sample's `read`. revision: the hub's commit, empty for local
    data, whose name is the hash of what was scored (see `images.content_hash`). keys: the classes as the data write
    them, where `classnames` may differ. is_named: False where the classes are numbers without names. notes: what a
    person is to know of how the set was read.
    """

    name: str
    classnames: tuple[str, ...]
    templates: tuple[str, ...]
    size: int
    samples: Callable[[], Iterator[Sample]]
    revision: str = ""
    keys: tuple[str, ...] = ()
    is_named: bool = True
    notes: tuple[str, ...] = ()

    def share(self, rank: int = 0, world_size: int = 1) -> Iterator[Sample]:
        """Samples rank, rank + world_size, ... of a new pass."""
        return islice(self.samples(), rank, None, world_size)
