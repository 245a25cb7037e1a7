"""What every kind of captioned image set is turned into, for retrieval."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from eval.data.images import Sample


@dataclass(frozen=True)
class RetrievalSet:
    """Images, each with one caption or more.

    captions: of each image, in the order of `samples`, which starts a new pass; nothing is read before a sample's
    `read`. revision: the hub's commit, empty for local data. notes: what a person is to know of how the set was read.
    """

    name: str
    captions: tuple[tuple[str, ...], ...]
    samples: Callable[[], Iterator[Sample]]
    revision: str = ""
    notes: tuple[str, ...] = ()
