"""Draws: the samples of a bucket in the order in which an epoch takes them, evaluated at any index."""

from dataclasses import dataclass

import numpy as np

from mcl_clip.plan.permutation import mix, permute


@dataclass(frozen=True)
class Draws:
    """The epoch's order inside every bucket; arrays over buckets, and over shards grouped by bucket.

    The shards of a bucket are put in a random order and rotated by a random number of samples (so that
    leftovers are not always the same). Full batches take an equal chunk of each of the bucket's lanes, equal
    ranges of that order; what is left after the lanes is a lane of its own. Inside a lane samples are
    shuffled in windows.
    """

    size: np.ndarray  # int64 [K], samples
    full: np.ndarray  # int64 [K], full batches
    lanes: np.ndarray  # int64 [K]
    rotation: np.ndarray  # int64 [K], where in the shard order the first lane starts
    key: np.ndarray  # uint64 [K]
    first: np.ndarray  # int64 [K + 1], samples of the buckets before
    order: np.ndarray  # int32 [S], shards in epoch order, bucket by bucket
    ends: np.ndarray  # int64 [S], running total of their samples
    window: int
    global_batch: int

    def draw(self, bucket: int, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(shard, ordinal) int32 of the given draws of a bucket, taken modulo its size."""
        size, lanes = int(self.size[bucket]), int(self.lanes[bucket])
        draws = draws % size
        body = int(self.full[bucket]) * self.global_batch
        chunk = self.global_batch // lanes
        position = draws % self.global_batch
        in_body = draws < body
        lane = np.where(in_body, position // chunk, lanes)
        index = np.where(in_body, draws // self.global_batch * chunk + position % chunk, draws - body)
        length = np.where(in_body, body // lanes, size - body)
        index = lane * (body // lanes) + self._shuffle(index, length, lane, self.key[bucket])
        return self._locate(bucket, (index + int(self.rotation[bucket])) % size)

    def draw_one(self, bucket: int, draw: int) -> tuple[int, int]:
        """(shard, ordinal) of one draw."""
        shard, ordinal = self.draw(bucket, np.array([draw]))
        return int(shard[0]), int(ordinal[0])

    def _shuffle(self, index, length, lane, key):
        """Move indices inside their window; the windows of a lane are equally long but for the last."""
        windows = -(-length // self.window)
        window_size = -(-length // windows)
        window = index // window_size
        start = window * window_size
        keys = mix(mix(key + lane.astype(np.uint64)) + window.astype(np.uint64))
        return start + permute(index - start, np.minimum(window_size, length - start), keys)

    def _locate(self, bucket, index):
        total = index + self.first[bucket]
        shard = np.searchsorted(self.ends, total, side="right")
        before = np.where(shard > 0, self.ends[shard - 1], 0)
        return self.order[shard], (total - before).astype(np.int32)
