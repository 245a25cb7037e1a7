"""Negatives of MoCo's anchors within their pseudo-label: a queue a label against one queue that is masked.

Counted on a plan, without a model: both hold the same number of keys. Of every anchor, over one pass after one that
fills the queues: how many keys of its pseudo-label it meets, and how many passes old the oldest of them is.
"""

import argparse
import json
from collections import deque

import numpy as np

from mcl_clip.plan.plan import Plan, make_plan
from mcl_clip.plan.policy import Policy


def main(arguments: list[str] | None = None) -> int:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--labels", type=int, default=100, help="pseudo-labels, of sizes like 1 / rank")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--queue", type=int, default=65536)
    parser.add_argument("--dim", type=int, default=128)
    options = parser.parse_args(arguments)
    sizes = 1 / np.arange(1, options.labels + 1)
    sizes = np.maximum((sizes / sizes.sum() * options.samples).astype(int), options.batch)
    plans = [
        make_plan(
            [str(label) for label in range(options.labels)],
            np.arange(options.labels),
            sizes,
            seed=0,
            stage=1,
            epoch=epoch,
            global_batch=options.batch,
            policy=Policy(),
        )
        for epoch in range(2)
    ]
    total = int(sizes.sum())
    result = {
        "queue_a_label": _told(_queues(plans, options.queue), total),
        "one_masked_queue": _told(_masked(plans, options.queue), total),
        "keys_mib": round(options.queue * options.dim * 4 / 2**20, 1),
        **{name: value for name, value in vars(options).items() if name != "json"},
    }
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


Met = list[tuple[int, int, int]]
"""Of each segment of the second pass: (anchors, keys of their label, samples seen since the oldest was)."""


def _queues(plans: list[Plan], keys: int) -> Met:
    """Each label's newest samples, as many as its share of the keys; runs of (when, count)."""
    size = plans[0].draws.size
    capacity = np.maximum(keys * size // size.sum(), 1)
    held: list[deque[tuple[int, int]]] = [deque() for _ in size]
    return _run(plans, lambda label: list(held[label]), lambda label, run: _push(held[label], run, capacity[label]))


def _masked(plans: list[Plan], keys: int) -> Met:
    """The newest samples of all labels; those of one are counted."""
    held: deque[tuple[int, int, int]] = deque()
    mine: dict[int, deque[tuple[int, int]]] = {}
    total = 0

    def push(label: int, run: tuple[int, int]) -> None:
        nonlocal total
        held.append((label, *run))
        mine.setdefault(label, deque()).append(run)
        total += run[1]
        while total - held[0][2] >= keys:
            gone, _, count = held.popleft()
            mine[gone].popleft()
            total -= count

    return _run(plans, lambda label: list(mine.get(label, ())), push)


def _run(plans: list[Plan], of, push) -> Met:
    met, now = [], 0
    for measured, plan in enumerate(plans):
        for t in range(len(plan)):
            segments = plan.segments(t)
            if measured:
                for each in segments:
                    runs = of(each.bucket)
                    met.append((each.length, sum(count for _, count in runs), now - runs[0][0] if runs else 0))
            for each in segments:
                push(each.bucket, (now, each.length))
            now += plan.global_batch
    return met


def _push(queue: deque[tuple[int, int]], run: tuple[int, int], capacity: int) -> None:
    queue.append(run)
    surplus = sum(count for _, count in queue) - capacity
    while surplus > 0:
        when, count = queue.popleft()
        if count > surplus:
            queue.appendleft((when, count - surplus))
        surplus -= count


def _told(met: Met, samples: int) -> dict[str, float]:
    anchors, keys, ages = (np.array(each) for each in zip(*met, strict=True))
    every = np.repeat(keys, anchors)
    return {
        "negatives_mean": round(float(every.mean()), 1),
        "negatives_5_percent": float(np.percentile(every, 5)),
        "share_without_negatives": round(float((every == 0).mean()), 4),
        "oldest_passes_mean": round(float(np.average(ages, weights=anchors)) / samples, 4),
        "oldest_passes_most": round(float(ages.max()) / samples, 4),
    }


if __name__ == "__main__":
    raise SystemExit(main())
