"""The order in which an epoch takes the batches of all buckets."""

import numpy as np


def interleave(counts: np.ndarray, phases: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spread counts[b] batches of every bucket b evenly over the epoch.

    Batch i of bucket b stands at (i + phases[b]) / counts[b], phases in [0, 1). Returns (bucket int32 [T],
    batch of that bucket int32 [T]) in epoch order. Between two batches of a bucket any other one with c
    batches to its d has at most floor(c / d) + 1, so no stretch of an epoch is left to the largest bucket.
    """
    bucket = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    first = np.cumsum(counts) - counts
    batch = (np.arange(len(bucket)) - first[bucket]).astype(np.int32)
    order = np.argsort((batch + phases[bucket]) / counts[bucket], kind="stable")
    return bucket[order], batch[order]
