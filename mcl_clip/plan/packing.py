"""Leftovers of the buckets, packed into global batches of several segments."""

from collections.abc import Sequence
from itertools import islice

LOOK_AHEAD = 64


def pack(
    sizes: Sequence[int], capacity: int, minimum: int, groups: Sequence[int] | None = None
) -> list[list[tuple[int, int, int]]]:
    """Cut items of the given sizes, in the given order, into batches of `capacity`; the last may be short.

    Returns, per batch, (item, start, count): samples [start, start + count) of that item. Every sample occurs
    once; an item occurs at most once in a batch, and consecutive batches continue it. Items are taken out of
    order (at most LOOK_AHEAD items early) when that avoids a piece of fewer than `minimum` samples. Items of one of
    the `groups` never share a batch; so up to as many batches as the largest group has items may be short.
    """
    group = groups or range(len(sizes))
    queue = [(item, 0, size) for item, size in enumerate(sizes) if size > 0]
    batches = []
    while queue:
        room = capacity
        batch: dict[int, tuple[int, int]] = {}
        held: dict[int, int] = {}
        carried: list[tuple[int, int, int]] = []
        while room:
            free = (index for index, (item, _, _) in enumerate(queue) if held.get(group[item], item) == item)
            candidates = list(islice(free, LOOK_AHEAD))
            if not candidates and not carried:
                break
            if not candidates:
                queue, carried = carried + queue, []
                continue
            index, take = _choose(queue, candidates, room, minimum)
            item, start, size = queue.pop(index)
            first, count = batch.get(item, (start, 0))
            batch[item], held[group[item]] = (first, count + take), item
            room -= take
            if size > take:
                carried.append((item, start + take, size - take))
        queue = carried + queue
        batches.append([(item, start, count) for item, (start, count) in batch.items()])
    return batches


def _choose(queue, candidates, room, minimum):
    """(index in the queue, samples to take) without a sliver, or the first candidate as far as it goes."""
    for index in candidates:
        size = queue[index][2]
        most = min(size, room)
        for take in (most, most - minimum):
            whole = take >= min(minimum, size)
            if whole and all(rest == 0 or rest >= minimum for rest in (size - take, room - take)):
                return index, take
    return candidates[0], min(queue[candidates[0]][2], room)
