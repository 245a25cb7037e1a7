"""Bytes that one node fetches in an epoch when it reads remote tars whole, through a cache."""

import argparse
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from mcl_clip.plan.plan import Plan

ROWS_AT_ONCE = 1 << 13


def read_amplification(plan: Plan, shard_size: np.ndarray, options: argparse.Namespace) -> float:
    """Bytes fetched over bytes used by one node in one epoch: whole shards, a least-recently-used cache."""
    capacity = options.cache_gib * 1024 * 1024 / options.sample_kib  # in samples
    cache: OrderedDict[int, int] = OrderedDict()
    held = fetched = 0
    for shard in _reads(plan, options):
        if shard in cache:
            cache.move_to_end(shard)
            continue
        cache[shard] = size = int(shard_size[shard])
        fetched, held = fetched + size, held + size
        while held > capacity:
            held -= cache.popitem(last=False)[1]
    return fetched / (len(plan) * options.global_batch // options.nodes)


def _reads(plan: Plan, options: argparse.Namespace) -> Iterator[int]:
    """Shards that one node touches, batch after batch of the epoch; a bucket is evaluated at once."""
    width = options.global_batch // options.nodes
    positions = np.arange(width) + options.node * width
    steps, shards = [], []
    for bucket in range(len(plan.back_off.names)):
        at = np.flatnonzero(plan.batch_bucket == bucket)
        parts = np.array_split(at, -(-len(at) // ROWS_AT_ONCE) or 1)
        for rows in tqdm(parts, "reads of one node", leave=False, disable=None):
            draws = plan.batch_index[rows, None].astype(np.int64) * plan.global_batch + positions
            touched = np.sort(plan.draws.draw(bucket, draws)[0], axis=1)
            new = np.diff(touched, axis=1, prepend=-1) != 0
            steps.append(np.broadcast_to(rows[:, None], touched.shape)[new])
            shards.append(touched[new])
    for t in np.flatnonzero(plan.batch_bucket == len(plan.back_off.names)):
        touched = np.unique(plan.positions(int(t), positions[0], positions[-1] + 1)[0])
        steps.append(np.full(len(touched), t))
        shards.append(touched)
    order = np.argsort(np.concatenate(steps), kind="stable")
    return iter(np.concatenate(shards)[order].tolist())
