"""Which pairs weights are fitted on: chosen by counts and hashes, before an image is read."""

from collections.abc import Iterator

import numpy as np

from mcl_clip.clustering.reservoir import key_hashes, smallest
from mcl_clip.errors import UserError
from mcl_clip.shards.manifest import Manifest

SHARD_PAIRS = 128  # of one shard at least, so that few shards are opened and a batch of it is worth its pass


def rows_to_fit(data: Manifest, shard: int) -> range:
    """Rows of a shard that may be fitted on: those set apart, or all where the data sets none apart."""
    return data.rows_apart(shard) if data.apart else range(int(data.shard_size[shard]))


def num_to_fit(data: Manifest) -> int:
    """Pairs that may be fitted on."""
    return data.num_apart if data.apart else data.num_samples


def choose_pairs(data: Manifest, pairs: int, seed: int) -> dict[int, int]:
    """{shard: how many} of at most `pairs` pairs, from the counts alone.

    Shards are taken in the order of a hash of (seed, name), and of each at most as many pairs as make the taken ones
    enough; a bounded sample of much data thus lies in `pairs / SHARD_PAIRS` shards or a few more.
    """
    counts = np.array([len(rows_to_fit(data, shard)) for shard in range(data.num_shards)])
    quota = SHARD_PAIRS
    while quota < counts.max(initial=0) and np.minimum(counts, quota).sum() < pairs:
        quota *= 2
    left, chosen = pairs, {}
    for shard in np.argsort(key_hashes("", data.shard_names, seed), kind="stable").tolist():
        taken = min(int(counts[shard]), quota, left)
        if taken:
            chosen[shard] = taken
            left -= taken
    return chosen


def choose_rows(data: Manifest, shard: int, count: int, seed: int) -> np.ndarray:
    """Ascending rows of a shard: the `count` of the least hashes of (seed, shard, key)."""
    rows = rows_to_fit(data, shard)
    keys = data.open_shard(shard).keys[rows.start : rows.stop]
    return rows.start + smallest(key_hashes(data.shard_names[shard], keys, seed), count)


def check_enough(data: Manifest, stages: int, named: str) -> None:
    """`UserError` when it is known before any training that `named` has too few pairs to fit so many stages on."""
    count = num_to_fit(data)
    if count <= 2 * stages:
        raise UserError(
            f"{named} has {count} pairs, too few to fit the weights of {stages} stages on: it needs more than "
            f"{2 * stages}"
        )
    captions = _captions(data)
    first = next(captions)
    if all(caption == first for caption in captions):
        raise UserError(f"{named} has {count} pairs of one caption, {first[:40]!r}: none is another's negative")


def _captions(data: Manifest) -> Iterator[str]:
    for shard in range(data.num_shards):
        rows = rows_to_fit(data, shard)
        opened = data.open_shard(shard) if rows else None
        for row in rows:
            yield (opened and opened.read_caption(row)) or ""
