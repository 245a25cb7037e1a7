"""The plan: which samples make up each global batch of an epoch, as a pure function of numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mcl_clip.errors import UserError
from mcl_clip.plan.backoff import BackOff, back_off
from mcl_clip.plan.draws import Draws
from mcl_clip.plan.interleave import interleave
from mcl_clip.plan.packing import pack
from mcl_clip.plan.policy import Policy
from mcl_clip.plan.segments import SegmentLayout


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
class Segment:
    """`length` consecutive draws of a bucket, from `start` on, cyclic; the last `padding` are repeats."""

    bucket: int
    start: int
    length: int
    padding: int = 0


@dataclass(frozen=True)
class Plan:
    """Global batches of one epoch; make it with `make_plan`.

    A bucket's epoch is a sequence of draws, a permutation of its samples that can be evaluated at any draw:
    full batch i is draws [i*G, (i+1)*G), packed batches share the rest. Nothing is stored per sample.
    """

    global_batch: int
    back_off: BackOff
    num_samples: int
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
        """Segment lengths of global batch t."""
        return SegmentLayout(tuple(segment.length for segment in self.segments(t)))

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
                parts.append(self.draws.draw(segment.bucket, np.arange(low, high) + segment.start))
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
        draws = (segment.start + segment.length + choice for choice in candidates)
        return rivals, (self.draws.draw_one(segment.bucket, draw) for draw in draws)


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
) -> Plan:
    """The plan of one epoch, in time and memory proportional to the number of shards and batches.

    shard_label: int [S], index into `label_paths`; shard_size: int [S], samples. Raises `UserError` when
    there are fewer samples than `global_batch` or the policy leaves no batch.
    """
    shard_label, shard_size = np.asarray(shard_label), np.asarray(shard_size)
    num_samples = int(shard_size.sum(dtype=np.int64))
    if num_samples < global_batch:
        raise UserError(
            f"{num_samples} samples are fewer than one global batch of {global_batch} "
            "(--batch-size x --accum-freq x processes): lower one of these, or bring more data"
        )
    label_sizes = np.bincount(shard_label, shard_size, len(label_paths)).astype(np.int64)
    backed_off = back_off(label_paths, label_sizes, policy.min_segment)
    shard_bucket = backed_off.effective[shard_label]
    num_buckets = len(backed_off.names)
    size = np.bincount(shard_bucket, shard_size, num_buckets).astype(np.int64)
    lanes, window = policy.lanes_and_window(global_batch, int(np.count_nonzero(size)))
    full, leftover = _split(size, global_batch, policy)

    random = np.random.Philox(np.random.SeedSequence((seed, stage, epoch)))
    shard_words, (rotation, key, packing) = (
        random.random_raw(len(shard_size)),
        random.random_raw((3, num_buckets)),
    )
    phases = (random.random_raw(num_buckets + 1) >> np.uint64(11)) * 2.0**-53

    packed: tuple[tuple[Segment, ...], ...] = ()
    dropped = int(leftover.sum()) if policy.leftovers == "drop" else 0
    if policy.leftovers == "pack":
        packed = _pack(size, full * global_batch, leftover, np.argsort(packing), global_batch, policy)
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
        num_samples=num_samples,
        num_padding=sum(segment.padding for batch in packed for segment in batch),
        num_dropped=dropped,
        packed=packed,
        batch_bucket=batch_bucket,
        batch_index=batch_index,
        draws=Draws(
            size=size,
            full=full,
            lanes=_lanes(size, global_batch, lanes, window),
            rotation=(rotation % np.maximum(size, 1).astype(np.uint64)).astype(np.int64),
            key=key,
            first=np.append(0, np.cumsum(size)),
            order=order,
            ends=np.cumsum(shard_size[order], dtype=np.int64),
            window=window,
            global_batch=global_batch,
        ),
    )


def _split(size, global_batch, policy):
    """(full batches, leftover samples) of every bucket; a sliver of a tail takes a full batch along."""
    full, leftover = np.divmod(size, global_batch)
    if policy.leftovers == "pack":
        sliver = (full > 0) & (leftover > 0) & (leftover < _sliver(policy, global_batch))
        full, leftover = full - sliver, leftover + sliver * global_batch
    return full, leftover


def _sliver(policy, global_batch):
    """Pieces of a packed batch should not be smaller than this; above half a batch it could not be kept."""
    return min(policy.min_segment, max(global_batch // 2, 1))


def _lanes(size, global_batch, most, window):
    """The largest divisor of G that is neither above `most` nor makes a lane shorter than a window."""
    divisors = np.array([d for d in range(1, min(most, global_batch) + 1) if global_batch % d == 0])
    return divisors[np.searchsorted(divisors, np.maximum(size // window, 1), side="right") - 1]


def _pack(size, body, leftover, order, global_batch, policy):
    """Packed batches, buckets in the given order; the last is filled with repeats of samples it lacks."""
    batches = [
        [Segment(int(order[item]), int(body[order[item]]) + start, count) for item, start, count in batch]
        for batch in pack(leftover[order].tolist(), global_batch, _sliver(policy, global_batch))
    ]
    if not batches:
        return ()
    last = batches[-1]
    held = {segment.bucket for segment in last}
    last += [Segment(int(bucket), 0, 0) for bucket in order if size[bucket] and bucket not in held]
    missing = global_batch - sum(segment.length for segment in last)
    filled = []
    for segment in last:
        repeats = min(missing, int(size[segment.bucket]) - segment.length)
        missing -= repeats
        if segment.length + repeats:
            filled.append(Segment(segment.bucket, segment.start, segment.length + repeats, repeats))
    batches[-1] = filled
    return tuple(tuple(batch) for batch in batches)
