"""Pseudo-labels: the clusters of *all* preceding stages, folded into one path such as `3/7`, or labels of
the user.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.dataset as ds

from mcl_clip.artifacts import sha256_file, sha256_json
from mcl_clip.clustering.clusters import Clusters, check_chain
from mcl_clip.errors import UserError


class PseudoLabels:
    """Labels `c_0/c_1/.../c_{s-1}` from the cluster directories of stages 0 to s-1, in that order.

    A sample that failed in any stage has no label. Raises `UserError` unless the artifacts form one chain:
    made from the same data, each after exactly the stages before it.
    """

    def __init__(self, directories: Sequence[str | Path]):
        if not directories:
            raise UserError("pseudo-labels need the clusters of at least one stage")
        self.stages = [Clusters.load(directory) for directory in directories]
        check_chain(self.stages)
        self.hash = sha256_json([clusters.hash for clusters in self.stages])

    def labels_for(self, shard: str, keys: Sequence[str], *, partial: bool = False) -> list[str | None]:
        """See `mcl_clip.shards.labels.ShardLabels`."""
        columns = []
        for clusters in self.stages:
            rows = clusters.labels_of(shard)
            columns.append(_join(shard, keys, rows.keys, rows.cluster.tolist(), str(clusters.directory), partial))
        return [None if min(path) < 0 else "/".join(map(str, path)) for path in zip(*columns, strict=True)]

    def check_shards(self, shards: Sequence[str]) -> None:
        """See `mcl_clip.shards.labels.ShardLabels`."""
        for clusters in self.stages:
            _check_shards(clusters.shard_names, shards, str(clusters.directory))


class UserLabels:
    """Labels the user brings: a parquet file, or a directory of them, with columns shard, key and label.

    A null label means: leave the sample out. Rows sorted by shard are read with one row group a shard; in any
    other order each shard scans the whole file.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not self.path.exists():
            raise UserError(f"{path} does not exist; give a parquet file with columns shard, key, label")
        try:
            self._rows = ds.dataset(self.path, format="parquet")
            missing = {"shard", "key", "label"} - set(self._rows.schema.names)
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is not a parquet file of labels: {error}") from None
        if missing:
            raise UserError(f"{path} has no column {', '.join(sorted(missing))}; it needs shard, key and label")
        self.hash = sha256_json([sha256_file(file) for file in sorted(self._rows.files)])

    def labels_for(self, shard: str, keys: Sequence[str], *, partial: bool = False) -> list[str | None]:
        """See `mcl_clip.shards.labels.ShardLabels`."""
        table = self._rows.to_table(columns=["key", "label"], filter=pc.field("shard") == shard)
        labels = [None if label is None else str(label) for label in table["label"].to_pylist()]
        return _join(shard, keys, table["key"].to_pylist(), labels, str(self.path), partial)

    def check_shards(self, shards: Sequence[str]) -> None:
        """See `mcl_clip.shards.labels.ShardLabels`."""
        labelled: set[str] = set()
        for batch in self._rows.to_batches(columns=["shard"]):
            labelled.update(batch["shard"].unique().to_pylist())
        _check_shards(labelled, shards, str(self.path))


def _check_shards(labelled: Iterable[str], shards: Sequence[str], source: str) -> None:
    surplus = set(labelled) - set(shards)
    if surplus:
        raise UserError(
            f"{source} labels shard {min(surplus)!r}, which the data does not have; make the labels of this data"
        )


def _join(shard: str, keys: Sequence[str], label_keys: Sequence[str], labels: list, source: str, partial: bool) -> list:
    """`labels` reordered from `label_keys` to `keys`, which must be the same set, or with `partial` a
    subset.
    """
    by_key = dict(zip(label_keys, labels, strict=True))
    if len(by_key) < len(label_keys):
        twice = next(key for key, count in Counter(label_keys).items() if count > 1)
        raise UserError(f"{source} labels sample {twice!r} of shard {shard!r} twice; make the labels again")
    missing = next((key for key in keys if key not in by_key), None)
    if missing is not None:
        raise UserError(
            f"sample {missing!r} of shard {shard!r} has no label in {source}; make the labels of this data again"
        )
    if not partial and len(by_key) > len(keys):
        surplus = min(by_key.keys() - set(keys))
        raise UserError(
            f"{source} labels {surplus!r} of shard {shard!r}, which has no such sample; "
            "make the labels of this data again"
        )
    return [by_key[key] for key in keys]
