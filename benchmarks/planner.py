"""The plan at the scale of 2e9 samples: time to start, to plan a batch, to resume; memory; bytes read."""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mcl_clip import seeds
from mcl_clip.plan.epochs import EpochPlans
from mcl_clip.plan.plan import Plan
from mcl_clip.plan.policy import Policy
from mcl_clip.shards.manifest import Manifest, write_manifest

ROWS_AT_ONCE = 1 << 13
_REPORTED = ("json", "measure", "samples", "lanes", "window")  # options that are no result, or measured


def main(arguments: list[str] | None = None) -> int:
    """Write a manifest without tars, then plan from it in a process of its own, whose memory is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--samples", type=int, default=2_000_000_000)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--shard-size", type=int, default=1000, help="samples in a full shard")
    parser.add_argument("--tail", type=float, default=1.2, help="label k holds a share proportional to k ** -tail")
    parser.add_argument("--global-batch", type=int, default=32768)
    parser.add_argument("--lanes", type=int, help="default: that of training")
    parser.add_argument("--window", type=int, help="default: that of training")
    parser.add_argument("--nodes", type=int, default=128)
    parser.add_argument("--node", type=int, default=37, help="the node whose reads are followed for a whole epoch")
    parser.add_argument("--cache-gib", type=float, default=64.0, help="cache of whole shards on a node")
    parser.add_argument("--sample-kib", type=float, default=30.0, help="bytes of a sample in its tar")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--measure", metavar="DIRECTORY", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(_measure(options, Path(options.measure))))
        return 0
    with tempfile.TemporaryDirectory(prefix="planner-") as temporary:
        _write_manifest(options, Path(temporary))
        command = [
            sys.executable,
            "-m",
            "benchmarks.planner",
            *(arguments or sys.argv[1:]),
            "--measure",
            temporary,
        ]
        measured = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(measured.stdout.splitlines()[-1])
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


def _write_manifest(options: argparse.Namespace, directory: Path) -> None:
    """Buckets of sizes k ** -tail, each cut into full shards and a rest, as mcl-shards leaves them."""
    shares = np.arange(1, options.labels + 1) ** -options.tail
    sizes = np.floor(shares / shares.sum() * options.samples).astype(np.int64)
    sizes[0] += options.samples - sizes.sum()
    counts = -(-sizes // options.shard_size)
    label = np.repeat(np.arange(options.labels, dtype=np.int32), counts)
    size = np.full(len(label), options.shard_size, np.int32)
    size[np.cumsum(counts) - 1] = sizes - (counts - 1) * options.shard_size
    names = [f"{shard:08d}" for shard in range(len(label))]
    content = seeds.generator(options.seed).integers(0, 2**63, (len(label), 4))
    write_manifest(
        directory,
        "buckets",
        shards={
            "name": names,
            "label": label,
            "samples": size,
            "failed": np.zeros(len(label), np.int32),
            "bytes": size.astype(np.int64) * int(options.sample_kib * 1024),
            "rows_sha256": ["".join(f"{word:016x}" for word in row) for row in content.tolist()],
        },
        tars={
            "path": [f"{name}.tar" for name in names],
            "bytes": size.astype(np.int64) * int(options.sample_kib * 1024),
            "rest_crc32": np.zeros(len(label), np.uint32),
        },
        label_paths=[f"{label // 100}/{label // 10 % 10}/{label % 10}" for label in range(options.labels)],
        source_names=["00000"],
    )


def _measure(options: argparse.Namespace, directory: Path) -> dict:
    start = time.perf_counter()
    manifest = Manifest.load(directory)
    policy = Policy(lanes=options.lanes, window=options.window)
    plans = EpochPlans(
        manifest.label_paths,
        manifest.shard_label,
        manifest.shard_size,
        options.seed,
        1,
        options.global_batch,
        policy,
    )
    plan = plans[0]
    start_s = time.perf_counter() - start
    resume_s = _seconds(plan, len(plan) // 2)
    per_batch = [_seconds(plan, t) for t in range(0, len(plan), max(len(plan) // 200, 1))]
    peak_rss_mib = _peak_rss_mib()
    return {
        "start_s": round(start_s, 3),
        "peak_rss_mib": round(peak_rss_mib, 1),
        "plan_batch_ms": round(1e3 * float(np.median(per_batch)), 2),
        "plan_batch_ms_max": round(1e3 * max(per_batch), 2),
        "resume_ms": round(1e3 * resume_s, 2),
        "read_amplification": round(read_amplification(plan, manifest.shard_size, options), 3),
        "samples": manifest.num_samples,
        "shards": manifest.num_shards,
        "batches": len(plan),
        "packed_batches": len(plan.packed),
        "padding": plan.num_padding,
        "lanes": int(plan.draws.lanes.max()),
        "window": plan.draws.window,
        **{name: value for name, value in vars(options).items() if name not in _REPORTED},
        "cores": os.cpu_count(),
    }


def _peak_rss_mib() -> float:
    """Of this process alone: getrusage also counts the memory of the parent that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def _seconds(plan: Plan, t: int) -> float:
    start = time.perf_counter()
    plan[t]
    return time.perf_counter() - start


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
    for bucket in tqdm(range(len(plan.back_off.names)), "reads of one node", leave=False, disable=None):
        at = np.flatnonzero(plan.batch_bucket == bucket)
        for rows in np.array_split(at, -(-len(at) // ROWS_AT_ONCE) or 1):
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


if __name__ == "__main__":
    sys.exit(main())
