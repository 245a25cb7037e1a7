"""The plan: which samples make up each global batch of an epoch, as a pure function of numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mcl_clip.errors import UserError
from mcl_clip.plan.backoff import BackOff, back_off
from mcl_clip.plan.draws import Draws
from mcl_clip.plan.interleave import interleave
from mcl_clip.plan.leftovers import pack_leftovers, split
from mcl_clip.plan.ordinary import with_ordinary
from mcl_clip.plan.policy import Policy
from mcl_clip.plan.segments import Segment, SegmentLayout

ORDINARY_WORDS = 1  # sets the choice of ordinary shards apart from all else that is random in a plan


@dataclass(frozen=True)
class GlobalBatch:
    """Samples of one optimizer step, in position order.

    layout and labels: one segment an effective pseudo-label. padding: per segment, how many of its last
    positions repeat samples that occur elsewhere in the epoch. shard, ordinal: int32 [G], the manifest's
    shard and the sample's ordinal in it.
    """

    layout: SegmentLayout
    labels: tuple[str, ...]
    padding: tuple[int, ...]
    shard: np.ndarray
    ordinal: np.ndarray


@dataclass(frozen=True)
class Plan:
    """Global batches of one epoch; make it with `make_plan`.

    A bucket's epoch is a sequence of draws, a permutation of its samples that can be evaluated at any draw:
    full batch i is draws [i*G, (i+1)*G), packed batches share the rest. Nothing is stored per sample. num_samples
    counts a sample as often as it is taken; num_repeats is how many of these are not the first of their sample.
    """

    global_batch: int
    back_off: BackOff
    num_samples: int
    num_repeats: int
    num_padding: int
    num_dropped: int
    packed: tuple[tuple[Segment, ...], ...]
    batch_bucket: np.ndarray  # int32 [T], bucket of batch t; len(names) for a packed one
    batch_index: np.ndarray  # int32 [T], which of the bucket's batches
    draws: Draws

    def __len__(self) -> int:
        """Batches of the epoch, the same for every epoch."""
        return len(self.batch_bucket)

    def segments(self, t: int) -> tuple[Segment, ...]:
        """Segments of global batch t, in position order."""
        bucket, index = int(self.batch_bucket[t]), int(self.batch_index[t])
        if bucket == len(self.back_off.names):
            return self.packed[index]
        return (Segment(bucket, index * self.global_batch, self.global_batch),)

    def layout(self, t: int) -> SegmentLayout:
        """Segment lengths of global batch t, and which effective pseudo-labels they are of."""
        segments = self.segments(t)
        return SegmentLayout(tuple(each.length for each in segments), tuple(each.bucket for each in segments))

    def __getitem__(self, t: int) -> GlobalBatch:
        if not 0 <= t < len(self):
            raise IndexError(f"batch {t} of a plan of {len(self)}")
        segments = self.segments(t)
        shard, ordinal = self.positions(t, 0, self.global_batch)
        return GlobalBatch(
            layout=self.layout(t),
            labels=tuple(self.back_off.names[segment.bucket] for segment in segments),
            padding=tuple(segment.padding for segment in segments),
            shard=shard,
            ordinal=ordinal,
        )

    def positions(self, t: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """(shard, ordinal), int32 [stop - start] each, of positions [start, stop) of batch t alone."""
        parts = []
        offset = 0
        for segment in self.segments(t):
            low, high = max(start - offset, 0), min(stop - offset, segment.length)
            if low < high:
                parts.append(self.draws.take(segment.bucket, segment.start, segment.fresh, np.arange(low, high)))
            offset += segment.length
        shards, ordinals = zip(*parts, strict=True) if parts else ((), ())
        empty = np.empty(0, np.int32)
        return np.concatenate((empty, *shards)), np.concatenate((empty, *ordinals))

    def sample(self, t: int, position: int) -> tuple[int, int]:
        """(shard, ordinal) at one position of batch t."""
        shard, ordinal = self.positions(t, position, position + 1)
        return int(shard[0]), int(ordinal[0])

    def substitutes(self, t: int, position: int) -> tuple[range, Iterator[tuple[int, int]]]:
        """Samples that may stand in for an unreadable one: same effective label, outside global batch t.

        Returns (rivals, candidates). Candidates are (shard, ordinal) in the order to try; two positions of a
        batch share none, unless the label has fewer samples outside the batch than inside: then they belong
        to `position` only when none of the positions in `rivals` is unreadable. The answer depends on nothing
        but the plan, so every world size agrees.
        """
        offset = 0
        for segment in self.segments(t):
            if position < offset + segment.length:
                break
            offset += segment.length
        index = position - offset
        outside = int(self.draws.size[segment.bucket]) - segment.length
        if outside < segment.length:
            rivals = range(offset + index % outside, position, outside) if outside else range(0)
            choices = [index % outside] if outside else []
            candidates = iter(choices)
        else:
            rivals, candidates = range(0), iter(range(index, outside, segment.length))
        return rivals, (self._outside(segment, choice) for choice in candidates)

    def _outside(self, segment: Segment, choice: int) -> tuple[int, int]:
        index = np.array([segment.length + choice])
        shard, ordinal = self.draws.take(segment.bucket, segment.start, segment.fresh, index)
        return int(shard[0]), int(ordinal[0])


def make_plan(
    label_paths: Sequence[str],
    shard_label: np.ndarray,
    shard_size: np.ndarray,
    *,
    seed: int,
    stage: int,
    epoch: int,
    global_batch: int,
    policy: Policy,
    shard_repeats: np.ndarray | None = None,
) -> Plan:
    """The plan of one epoch, in time and memory proportional to the number of shards and batches.

    shard_label: int [S], index into `label_paths`; shard_size: int [S], samples; shard_repeats: int [S], how often
    each of them is taken, by default once. Raises `UserError` when there are fewer samples than `global_batch` or the
    policy leaves no batch.
    """
    shard_label, shard_size = np.asarray(shard_label), np.asarray(shard_size)
    times = np.ones(len(shard_size), np.int64) if shard_repeats is None else np.asarray(shard_repeats, np.int64)
    shard_copies = shard_size * times
    distinct = int(shard_size.sum(dtype=np.int64))
    if distinct < global_batch:
        raise UserError(
            f"{distinct} samples are fewer than one global batch of {global_batch} "
            "(--batch-size x --accum-freq x processes): lower one of these, or bring more data"
        )
    if policy.ordinary:
        if (times > 1).any():
            raise UserError("repeated samples (--train-data-upsampling-factors) have no ordinary batches beside others")
        entropy = (seed, stage, epoch, ORDINARY_WORDS)
        label_paths, shard_label = with_ordinary(label_paths, shard_label, policy.ordinary, entropy)
    label_sizes = np.bincount(shard_label, shard_size, len(label_paths)).astype(np.int64)
    backed_off = back_off(label_paths, label_sizes, policy.min_segment)
    shard_bucket = backed_off.effective[shard_label]
    num_buckets = len(backed_off.names)
    size = np.bincount(shard_bucket, shard_size, num_buckets).astype(np.int64)
    copies = np.bincount(shard_bucket, shard_copies, num_buckets).astype(np.int64)
    repeats = np.ones(num_buckets, np.int64)
    np.maximum.at(repeats, shard_bucket[shard_size > 0], times[shard_size > 0])
    lanes, window = policy.lanes_and_window(global_batch)
    full, leftover = split(copies, repeats, global_batch, policy)

    random = np.random.Philox(np.random.SeedSequence((seed, stage, epoch)))
    shard_words, (rotation, key, packing) = (
        random.random_raw(len(shard_size)),
        random.random_raw((3, num_buckets)),
    )
    phases = _unit(random.random_raw(num_buckets + 1))

    packed: tuple[tuple[Segment, ...], ...] = ()
    dropped = int(leftover.sum()) if policy.leftovers == "drop" else 0
    if policy.leftovers == "pack":
        if (repeats > 1).any():  # how many batches are short depends on the order, and every epoch is as long
            packing = np.random.Philox(np.random.SeedSequence((seed, stage))).random_raw(num_buckets)
        packed = pack_leftovers(size, repeats, full, leftover, _unit(packing), global_batch, policy)
    counts = np.append(full, len(packed))
    if not counts.any():
        raise UserError(
            f"no pseudo-label has a global batch of {global_batch} samples, so nothing is left: "
            "use --mcl-leftovers pack, or lower --batch-size or --accum-freq"
        )
    batch_bucket, batch_index = interleave(counts, phases)
    order = np.lexsort((shard_words, shard_bucket)).astype(np.int32)
    return Plan(
        global_batch=global_batch,
        back_off=backed_off,
        num_samples=int(copies.sum()),
        num_repeats=int(copies.sum()) - distinct,
        num_padding=sum(segment.padding for batch in packed for segment in batch),
        num_dropped=dropped,
        packed=packed,
        batch_bucket=batch_bucket,
        batch_index=batch_index,
        draws=Draws(
            size=size,
            copies=copies,
            repeats=repeats,
            full=full,
            lanes=_lanes(copies, global_batch, lanes, window),
            rotation=(rotation % np.maximum(size, 1).astype(np.uint64)).astype(np.int64),
            key=key,
            first=np.append(0, np.cumsum(size)),
            line=np.append(0, np.cumsum(copies)),
            order=order,
            ends=np.cumsum(shard_size[order], dtype=np.int64),
            times=times[order],
            places=np.cumsum(shard_copies[order], dtype=np.int64),
            window=window,
            global_batch=global_batch,
        ),
    )


def _unit(words):
    """uint64 words as numbers in [0, 1)."""
    return (words >> np.uint64(11)) * 2.0**-53


def _lanes(size, global_batch, most, window):
    """The largest divisor of G that is neither above `most` nor makes a lane shorter than a window."""
    divisors = np.array([d for d in range(1, min(most, global_batch) + 1) if global_batch % d == 0])
    return divisors[np.searchsorted(divisors, np.maximum(size // window, 1), side="right") - 1]
