"""Throughput of bucketing against `cp --reflink=never` of the same bytes on the same disk, both synced."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from benchmarks.synced import timed
from mcl_clip import seeds
from mcl_clip.shards.buckets import write_buckets
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.verify import verify

MIB = 1 << 20


class RandomLabels:
    """Labels with sizes in proportion 1, 1/2, 1/3, ..., a function of shard and key."""

    def __init__(self, labels: int, seed: int):
        self._shares = [1 / (1 + label) for label in range(labels)]
        self._seed = seed
        self.hash = f"{labels} labels of seed {seed}"

    def labels_for(self, shard: str, keys: Sequence[str], *, partial: bool = False) -> list[str | None]:
        random = seeds.generator(self._seed, zlib.crc32(shard.encode()))
        total = sum(self._shares)
        shares = [share / total for share in self._shares]
        return [str(label) for label in random.choice(len(shares), len(keys), p=shares)]

    def check_shards(self, shards: Sequence[str]) -> None:
        pass


def main(arguments: list[str] | None = None) -> int:
    """Write tars, copy and bucket them by turns, print the best of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--mib", type=int, default=1024, help="size of the data")
    parser.add_argument("--sample-kib", type=int, default=40, help="size of an image")
    parser.add_argument("--labels", type=int, default=10)
    parser.add_argument("--shard-size", type=int, default=1000, help="samples in a shard")
    parser.add_argument("--workers", type=int, default=_cores())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--directory", default=".", help="where the temporary files go (the disk measured)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix=".bucketing-", dir=options.directory) as temporary:
        result = _measure(options, Path(temporary))
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


def _measure(options: argparse.Namespace, folder: Path) -> dict:
    paths = _write_tars(options, folder / "data")
    size = sum(os.path.getsize(path) for path in paths)
    start = time.perf_counter()
    source = index_sources(paths, folder / "index", workers=options.workers)
    index_s = time.perf_counter() - start
    labels = RandomLabels(options.labels, options.seed)
    copies, buckets = [], []
    for _ in range(options.repeats):
        copies.append(timed(lambda: _copy(folder / "data", folder / "copy", options.workers)))
        shutil.rmtree(folder / "copy")
        buckets.append(
            timed(
                lambda: write_buckets(
                    source, labels, folder / "buckets", shard_size=options.shard_size, workers=options.workers
                )
            )
        )
        problems = verify(folder / "buckets", workers=options.workers)
        assert not problems, problems
        shutil.rmtree(folder / "buckets")
    return {
        "ratio_vs_copy": round(min(copies) / min(buckets), 3),
        "bucket_mib_per_s": round(size / MIB / min(buckets), 1),
        "copy_mib_per_s": round(size / MIB / min(copies), 1),
        "index_mib_per_s": round(size / MIB / index_s, 1),
        "bucket_s": [round(seconds, 3) for seconds in buckets],
        "copy_s": [round(seconds, 3) for seconds in copies],
        "mib": round(size / MIB, 1),
        "samples": source.num_samples,
        **{name: getattr(options, name) for name in ("sample_kib", "labels", "shard_size", "workers", "seed")},
    }


def _copy(source: Path, target: Path, workers: int) -> None:
    """`cp` in `workers` processes, as many cores as bucketing gets."""
    target.mkdir()
    files = sorted(map(str, source.glob("*.tar")))
    command = ["xargs", "-n", "1", "-P", str(workers), "cp", "--reflink=never", "-t", str(target)]
    subprocess.run(command, input="\n".join(files), text=True, check=True)


def _write_tars(options: argparse.Namespace, folder: Path) -> list[str]:
    folder.mkdir()
    count = options.mib * 1024 // options.sample_kib
    paths = []
    for first in range(0, count, options.shard_size):
        path = folder / f"{first // options.shard_size:05d}.tar"
        random = seeds.generator(options.seed, first)
        with tarfile.open(path, "w") as tar:
            for sample in range(first, min(first + options.shard_size, count)):
                image = random.bytes(int(options.sample_kib * 1024 * random.uniform(0.5, 1.5)))
                for extension, data in (
                    ("jpg", image),
                    ("txt", b"a caption of some forty characters, as usual"),
                ):
                    info = tarfile.TarInfo(f"{sample:09d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, BytesIO(data))
        paths.append(str(path))
    return paths


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    sys.exit(main())
