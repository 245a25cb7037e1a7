"""What each process of a job does before its first batch, measured in a process of its own."""

import argparse
import os
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.planner.data import OPENED, tar_pattern
from benchmarks.planner.reads import read_amplification
from mcl_clip.plan.epochs import EpochPlans
from mcl_clip.plan.plan import Plan
from mcl_clip.plan.policy import Policy
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.manifest import Manifest
from mcl_clip.world import World
from training.arrows.source import index
from training.ranks import Ranks


class Other(World):
    """A rank that hears what the first one found: a finished index."""

    rank, world_size = 1, 2

    def share(self, value: Callable[[], Any]) -> Any:
        return None


def first_rank(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """From the command to the first batch: tars listed and checked against their index, buckets opened, plan made."""
    imported_s, base = time.time() - options.begun, _start_counting()
    index(tar_pattern(options, directory), directory / "source", Ranks())
    listed_s = time.time() - options.begun
    manifest = Manifest.load(directory / "buckets")
    plan = _plan(options, manifest)
    plan[0]
    return {
        "start_s": round(time.time() - options.begun, 2),
        "import_s": round(imported_s, 2),
        "listed_s": round(listed_s - imported_s, 2),
        "first_rank_rss_mib": round(_peak_rss_mib() - base, 1),
    }


def other_rank(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """The same of a rank that is told, its memory, and that of a reader forked from it."""
    imported_s, base = time.time() - options.begun, _start_counting()
    index_sources([], directory / "source", world=Other())
    manifest = Manifest.load(directory / "buckets")
    manifest.read_tables()
    plan = _plan(options, manifest)
    plan[0]
    started_s, peak = time.time() - options.begun, _peak_rss_mib()
    context = get_context("fork")
    answers = context.SimpleQueue()
    reader = context.Process(target=_read, args=(manifest, answers))
    reader.start()
    worker_s, worker_mib = answers.get()
    reader.join()
    per_batch = [_seconds(plan, t) for t in range(0, len(plan), max(len(plan) // 200, 1))]
    return {
        "other_ranks_start_s": round(started_s, 2),
        "other_ranks_import_s": round(imported_s, 2),
        "plan_rss_mib": round(peak - base, 1),
        "worker_start_s": round(worker_s, 3),
        "worker_rss_mib": round(worker_mib, 1),
        "plan_batch_ms": round(1e3 * float(np.median(per_batch)), 2),
        "plan_batch_ms_max": round(1e3 * max(per_batch), 2),
        "resume_ms": round(1e3 * _seconds(_plan(options, manifest), len(plan) // 2), 2),
        "samples": manifest.num_samples,
        "shards": manifest.num_shards,
        "batches": len(plan),
        "packed_batches": len(plan.packed),
        "padding": plan.num_padding,
        "lanes": int(plan.draws.lanes.max()),
        "window": plan.draws.window,
    }


def stage_0_reads(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Bytes fetched a byte used where the source lies behind URLs and is read through the cache."""
    source = Manifest.load(directory / "source")
    return {"read_amplification": round(read_amplification(_plan(options, source), source.shard_size, options), 3)}


def _plan(options: argparse.Namespace, manifest: Manifest) -> Plan:
    return EpochPlans(
        manifest.label_paths,
        manifest.shard_label,
        manifest.shard_size,
        options.seed,
        1,
        options.global_batch,
        Policy(lanes=options.lanes, window=options.window),
    )[0]


def _read(manifest: Manifest, answers: Any) -> None:
    """A reader's work at its start: shards opened, their tars and samples named."""
    before, start = _rss_mib("VmRSS"), time.perf_counter()
    for shard in range(min(OPENED, manifest.num_shards)):
        rows = manifest.open_shard(shard)
        assert rows.source_of(0) and manifest.tars.paths[shard] and manifest.tars.sizes[shard]
    answers.put((time.perf_counter() - start, _rss_mib("VmRSS") - before))


def _seconds(plan: Plan, t: int) -> float:
    start = time.perf_counter()
    plan[t]
    return time.perf_counter() - start


def _start_counting() -> float:
    """Forget the peak so far, the import's; MiB held now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _rss_mib("VmRSS")


def _peak_rss_mib() -> float:
    """Of this process alone: getrusage also counts the memory of the parent that started it."""
    return _rss_mib("VmHWM")


def _rss_mib(name: str) -> float:
    if not os.path.exists("/proc/self/status"):
        raise SystemExit("memory is read from /proc, which Linux has")
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024
