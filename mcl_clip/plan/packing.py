"""Leftovers of the buckets, packed into global batches of several segments."""

from collections.abc import Sequence

LOOK_AHEAD = 64


def pack(sizes: Sequence[int], capacity: int, minimum: int) -> list[list[tuple[int, int, int]]]:
    """Cut items of the given sizes, in the given order, into batches of `capacity`; the last may be short.

    Returns, per batch, (item, start, count): samples [start, start + count) of that item. Every sample occurs
    once; an item occurs at most once in a batch, and consecutive batches continue it. Items are taken out of
    order (at most LOOK_AHEAD items early) when that avoids a piece of fewer than `minimum` samples.
    """
    queue = [(item, 0, size) for item, size in enumerate(sizes) if size > 0]
    batches = []
    while queue:
        room = capacity
        batch: dict[int, tuple[int, int]] = {}
        carried: list[tuple[int, int, int]] = []
        while room and (queue or carried):
            if not queue:
                queue, carried = carried, []
            index, take = _choose(queue, room, minimum)
            item, start, size = queue.pop(index)
            first, count = batch.get(item, (start, 0))
            batch[item] = (first, count + take)
            room -= take
            if size > take:
                carried.append((item, start + take, size - take))
        queue = carried + queue
        batches.append([(item, start, count) for item, (start, count) in batch.items()])
    return batches


def _choose(queue, room, minimum):
    """(index in the queue, samples to take) without a sliver, or the first item as far as it goes."""
    for index, (_, _, size) in enumerate(queue[:LOOK_AHEAD]):
        most = min(size, room)
        for take in (most, most - minimum):
            whole = take >= min(minimum, size)
            if whole and all(rest == 0 or rest >= minimum for rest in (size - take, room - take)):
                return index, take
    return 0, min(queue[0][2], room)
