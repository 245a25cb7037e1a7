"""The sum after a clustering pass: label files of 1,000 samples each, CPU time a sample of one core."""

import argparse
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mcl_clip import seeds
from mcl_clip.clustering.sums import read_clusters, read_run, sum_run, write_run

SAMPLES = 1000


class Stage:
    """The label files of one stage, as `mcl_clip.clustering.clusters.Clusters` finds them."""

    def __init__(self, folder: Path, shards: list[str], keys: list[list[str]], k: int, *seed: int):
        folder.mkdir(parents=True)
        random = seeds.generator(*seed)
        self.paths = {shard: folder / f"{shard}.parquet" for shard in shards}
        for shard, own in zip(shards, keys, strict=True):
            cluster = random.integers(0, k, len(own)).astype(np.int32)
            distance = random.beta(5, 5, len(own)).astype(np.float32)
            columns = {"shard": [shard] * len(own), "key": own, "cluster": cluster, "distance": distance}
            pq.write_table(pa.table(columns), self.paths[shard])

    def path_of(self, shard: str) -> Path:
        return self.paths[shard]


def measure(options: argparse.Namespace, folder: Path) -> dict:
    """Without and with one earlier stage; files in the page cache."""
    k = options.clusters
    shards = [f"{shard:08d}" for shard in range(options.label_files)]
    keys = [[f"{shard}{row:04d}" for row in range(SAMPLES)] for shard in shards]
    stages = [Stage(folder / str(stage), shards, keys, k, options.seed, stage) for stage in range(2)]
    paths = list(stages[1].paths.values())
    apart = [range(SAMPLES, SAMPLES)] * len(shards)

    def sum_up(previous: int) -> float:
        start = time.process_time()
        labels = read_run(paths, shards)
        earlier = [read_clusters(stage, shards) for stage in stages[:previous]]  # type: ignore[arg-type]
        ks = [k] * (previous + 1)
        write_run(folder / f"{previous}.safetensors", *sum_run(labels, earlier, apart, ks, 2.0, options.seed))
        return (time.process_time() - start) / len(shards) / SAMPLES * 1e6

    sum_up(1)
    alone, after = (min(sum_up(previous) for _ in range(options.rounds)) for previous in (0, 1))
    return {"sum_us_a_sample": round(alone, 3), "sum_us_an_earlier_stage": round(after - alone, 3)}
