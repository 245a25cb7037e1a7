"""Draws: the samples of a bucket in the order in which an epoch takes them, evaluated at any index."""

from dataclasses import dataclass

import numpy as np

from mcl_clip.plan.permutation import mix, permute
from mcl_clip.plan.repeats import deal


@dataclass(frozen=True)
class Draws:
    """The epoch's order inside every bucket; arrays over buckets, and over shards grouped by bucket.

    The shards of a bucket are put in a random order and rotated by a random number of samples (so that
    leftovers are not always the same). Full batches take an equal chunk of each of the bucket's lanes, equal
    ranges of that order; what is left after the lanes is a lane of its own. Inside a lane samples are
    shuffled in windows. Buckets that repeat samples are shuffled inside shards, and dealt out (see `repeats`).
    """

    size: np.ndarray  # int64 [K], samples
    copies: np.ndarray  # int64 [K], draws: samples, each as often as it is repeated
    repeats: np.ndarray  # int64 [K], most repeats of a sample
    full: np.ndarray  # int64 [K], full batches
    lanes: np.ndarray  # int64 [K]
    rotation: np.ndarray  # int64 [K], where in the shard order the first lane starts
    key: np.ndarray  # uint64 [K]
    first: np.ndarray  # int64 [K + 1], samples of the buckets before
    line: np.ndarray  # int64 [K + 1], draws of the buckets before
    order: np.ndarray  # int32 [S], shards in epoch order, bucket by bucket
    ends: np.ndarray  # int64 [S], running total of their samples
    times: np.ndarray  # int64 [S], repeats of their samples
    places: np.ndarray  # int64 [S], running total of their samples, each as often as it is repeated
    window: int
    global_batch: int

    def draw(self, bucket: int, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(shard, ordinal) int32 of the given draws of a bucket, taken modulo its size where it repeats none."""
        if self.repeats[bucket] > 1:
            return self._shuffled(bucket, self._sample(bucket, draws))
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

    def take(self, bucket: int, start: int, count: int, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(shard, ordinal) of draws start + index; from index `count` on, of samples absent from these `count` draws.

        Every sample of the bucket has one index below its size.
        """
        if self.repeats[bucket] == 1:
            return self.draw(bucket, start + index)
        absent = index >= count
        samples = self._sample(bucket, start + np.where(absent, 0, index))
        if absent.any():
            held = np.sort(self._sample(bucket, start + np.arange(count))) - np.arange(count)
            more = index[absent] - count
            samples[absent] = more + np.searchsorted(held, more, side="right")
        return self._shuffled(bucket, samples)

    def _sample(self, bucket, draws):
        """Which of the bucket's samples, in the order of its shards, each draw is a copy of."""
        place = deal(
            draws,
            copies=int(self.copies[bucket]),
            repeats=int(self.repeats[bucket]),
            full=int(self.full[bucket]),
            lanes=int(self.lanes[bucket]),
            window=self.window,
            global_batch=self.global_batch,
            key=self.key[bucket : bucket + 1],
        )
        place = place + self.line[bucket]
        shard = np.searchsorted(self.places, place, side="right")
        before, size = self._before(shard)
        offset = place - self.places[shard] + size * self.times[shard]
        return before + offset // self.times[shard] - self.first[bucket]

    def _shuffled(self, bucket, samples):
        """(shard, ordinal) of samples in the order of the bucket's shards, shuffled inside each."""
        total = samples + self.first[bucket]
        shard = np.searchsorted(self.ends, total, side="right")
        before, size = self._before(shard)
        keys = mix(self.key[bucket : bucket + 1] + shard.astype(np.uint64))
        return self.order[shard], permute(total - before, size, keys).astype(np.int32)

    def _before(self, shard):
        """(samples before it, its samples) of a shard in epoch order."""
        before = np.where(shard > 0, self.ends[shard - 1], 0)
        return before, self.ends[shard] - before

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
        return self.order[shard], (total - self._before(shard)[0]).astype(np.int32)
