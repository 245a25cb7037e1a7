"""What buckets have beyond their full batches, packed into global batches of several segments."""

from collections.abc import Sequence

import numpy as np

from mcl_clip.plan.interleave import interleave
from mcl_clip.plan.packing import pack
from mcl_clip.plan.policy import Policy
from mcl_clip.plan.segments import Segment


def split(copies: np.ndarray, repeats: np.ndarray, global_batch: int, policy: Policy) -> tuple[np.ndarray, np.ndarray]:
    """(full batches, leftover draws), int64 [K], of every bucket; a sliver of a tail takes a full batch along.

    A bucket of fewer full batches than it repeats a sample is all leftovers.
    """
    full = copies // global_batch
    full = np.where(full < repeats, 0, full)
    leftover = copies - full * global_batch
    if policy.leftovers == "pack":
        enough = (full > repeats * (repeats > 1)) & (repeats * (leftover + global_batch) <= copies)
        sliver = enough & (leftover > 0) & (leftover < _sliver(policy, global_batch))
        full, leftover = full - sliver, leftover + sliver * global_batch
    return full, leftover


def pack_leftovers(
    size: np.ndarray,
    repeats: np.ndarray,
    full: np.ndarray,
    leftover: np.ndarray,
    phases: np.ndarray,
    global_batch: int,
    policy: Policy,
) -> tuple[tuple[Segment, ...], ...]:
    """Packed batches, buckets in the order of their phases; short ones are filled with repeats of samples they lack.

    A bucket that is all leftovers is as many pieces as it repeats a sample, no two of which share a batch. So at most
    as many batches are short.
    """
    pieces = np.where(leftover > 0, np.where(full > 0, 1, repeats), 0)
    bucket, piece = interleave(pieces, phases)
    base, longer = np.divmod(leftover[bucket], pieces[bucket])
    lengths = base + (piece < longer)
    starts = (full * global_batch)[bucket] + piece * base + np.minimum(piece, longer)
    order = np.argsort(phases)
    return tuple(
        _filled(
            [Segment(int(bucket[item]), int(starts[item]) + at, count) for item, at, count in batch],
            size,
            order,
            global_batch,
        )
        for batch in pack(lengths.tolist(), global_batch, _sliver(policy, global_batch), bucket.tolist())
    )


def _sliver(policy: Policy, global_batch: int) -> int:
    """Pieces of a packed batch should not be smaller than this; above half a batch it could not be kept."""
    return min(policy.min_segment, max(global_batch // 2, 1))


def _filled(batch: list[Segment], size: np.ndarray, order: np.ndarray, global_batch: int) -> tuple[Segment, ...]:
    """A batch with padding up to `global_batch`: of the buckets it holds as far as these have other samples."""
    missing = global_batch - sum(segment.length for segment in batch)
    if not missing:
        return tuple(batch)
    held = {segment.bucket for segment in batch}
    others: Sequence[Segment] = [Segment(int(bucket), 0, 0) for bucket in order if size[bucket] and bucket not in held]
    filled = []
    for segment in [*batch, *others]:
        repeats = min(missing, int(size[segment.bucket]) - segment.length)
        missing -= repeats
        if segment.length + repeats:
            filled.append(Segment(segment.bucket, segment.start, segment.length + repeats, repeats))
    return tuple(filled)
