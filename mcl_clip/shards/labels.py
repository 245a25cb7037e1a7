"""What buckets are made by: a label for every source sample."""

from collections.abc import Sequence
from typing import Protocol


class ShardLabels(Protocol):
    """Labels of the source samples, asked for shard by shard."""

    @property
    def hash(self) -> str:
        """SHA-256 that changes whenever a label could."""

    def labels_for(self, shard: str, keys: Sequence[str], *, partial: bool = False) -> list[str | None]:
        """Label path of each key of a source shard, in the order of `keys`; None for a sample that failed.

        `keys` are all keys of the shard, or with `partial` some of them. A key without a label, and a label
        without a key (unless `partial`), raise `UserError` that names the key.
        """

    def check_shards(self, shards: Sequence[str]) -> None:
        """Raise `UserError` when there are labels of a shard that is not among `shards`, all of the data."""
