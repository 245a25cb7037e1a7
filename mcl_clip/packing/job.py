"""Rows to tars: every unit of the source is one independent piece of work, for any process of any rank."""

import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm import tqdm

from mcl_clip.artifacts import make_directory, read_json, write_json
from mcl_clip.errors import UserError
from mcl_clip.packing.rows import Source, Unit
from mcl_clip.packing.writer import SUCCESS, PackShard, shard_name
from mcl_clip.shards.pool import part_of, run
from mcl_clip.world import World, appears

COMMIT = "pack.json"
FORMAT = {"format": "mcl_clip pack", "version": 1}
EXAMPLES = 3
_OURS = re.compile(r"\d{5,}(\.tar|\.parquet|_stats\.json)|\..+\.[0-9a-f]{32}\.tmp")


@dataclass(frozen=True)
class Packed:
    """A finished directory of tars. skipped: how many rows for each reason; examples: the first images of each."""

    directory: Path
    shards: int
    samples: int
    skipped: dict[str, int]
    examples: dict[str, list[str]]

    def __str__(self) -> str:
        told = f"{self.directory}: {self.samples} samples in {self.shards} shards"
        if not self.skipped:
            return f"{told}, no row skipped"
        reasons = [f"{many} {why} ({', '.join(self.examples[why])})" for why, many in self.skipped.items()]
        return f"{told}, {sum(self.skipped.values())} rows skipped: {'; '.join(reasons)}"


def pack(
    source: Source,
    output_dir: Path,
    *,
    shard_size: int = 1000,
    hash_name: str | None = None,
    workers: int = 1,
    world: World | None = None,
    progress: bool = False,
) -> Packed:
    """Write the rows of `source` to `output_dir`, `shard_size` rows a tar, raw bytes as they are.

    With `hash_name` (md5, sha256 or sha512) that hash of every image is recorded, as img2dataset does.
    The ranks of a `world` all call this. The files depend on the rows and on `shard_size`, not on ranks, workers or
    interruptions; a killed run goes on with the shards that are missing. Memory: one image and the records of one
    shard in each process. Raises `UserError` when no row gives a sample, and for a directory that holds anything else.
    """
    world = world or World()
    directory, work = Path(output_dir), Path(output_dir) / "work"
    job = {"source": source.identity, "shard_size": shard_size, "hash": hash_name}

    def is_finished() -> bool:
        if (directory / COMMIT).exists():
            shutil.rmtree(work, ignore_errors=True)
            return True
        _begin(directory, work, job)
        if source.parallel and not (work / "units.json").exists():
            write_json(work / "units.json", list(source.units(shard_size, work)))
        return False

    if not world.share(is_finished):
        task = PackShard(source, directory, work, shard_size, hash_name)
        with tqdm(desc="pack", total=source.total, unit="row", disable=not progress or not world.is_first) as bar:
            for _, facts in _run(source, task, workers, world):
                bar.update(facts["count"] * (world.world_size if source.parallel else 1))
        world.barrier()
        world.share(lambda: _commit(directory, work, job))
    return _finished(directory, job)


def _run(source: Source, task: PackShard, workers: int, world: World) -> Iterator[tuple[Unit, Any]]:
    if source.parallel:
        units = [
            Unit(shard, rows, tuple(at)) for shard, rows, at in read_json(appears(task.work / "units.json", world))
        ]
        yield from run(task, part_of(units, world.rank, world.world_size), workers)
    elif world.is_first:
        for unit in source.units(task.size, task.work):
            yield unit, task(unit)


def _begin(directory: Path, work: Path, job: dict[str, Any]) -> None:
    """Claim an empty directory for this job, or go on with it."""
    make_directory(directory)
    claim = work / "job.json"
    if claim.exists():
        _refuse_other(directory, read_json(claim), job)
    elif any(entry.name != "work" for entry in directory.iterdir()):
        raise UserError(f"{directory} is not empty and holds no tars of mcl-shards pack; choose another directory")
    else:
        write_json(claim, job)


def _finished(directory: Path, job: dict[str, Any]) -> Packed:
    commit = read_json(appears(directory / COMMIT))
    if {name: commit.get(name) for name in FORMAT} != FORMAT:
        raise UserError(f"{directory / COMMIT} is not of {FORMAT}; delete {directory} and pack again")
    _refuse_other(directory, commit["made_from"], job)
    return Packed(directory, commit["shards"], commit["samples"], commit["skipped"], commit["examples"])


def _refuse_other(directory: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    if old != new:
        what = (
            "--mcl-shard-size or --compute-hash"
            if old["source"] == new["source"]
            else "source, or the source as it was then"
        )
        raise UserError(f"{directory} is of another {what}; delete it, or write to another place")


def _commit(directory: Path, work: Path, job: dict[str, Any]) -> None:
    reasons: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    shards = sorted(directory.glob("*_stats.json"), key=lambda path: int(path.name.partition("_")[0]))
    for shard, path in enumerate(shards):
        found = Counter(read_json(path)["status_dict"])
        reasons.update(found)
        if any(len(examples.get(why, [])) < EXAMPLES for why in found if why != SUCCESS):
            _add_examples(examples, directory / f"{shard_name(shard)}.parquet")
    samples = reasons.pop(SUCCESS, 0)
    packed = Packed(directory, len(shards), samples, dict(reasons.most_common()), examples)
    if not samples:
        _clear(directory)
        raise UserError(f"no row gives a sample: {str(packed).partition(': ')[2]}" if shards else "there is no row")
    for leftover in directory.glob(".*.tmp"):
        if _OURS.fullmatch(leftover.name):
            leftover.unlink()
    told = {"shards": len(shards), "samples": samples, "skipped": packed.skipped, "examples": examples}
    write_json(directory / COMMIT, {**FORMAT, **told, "made_from": job})
    shutil.rmtree(work, ignore_errors=True)


def _add_examples(examples: dict[str, list[str]], path: Path) -> None:
    for row in pq.read_table(path, columns=["url", "key", "error_message"]).to_pylist():
        why = row["error_message"]
        if why and len(examples.setdefault(why, [])) < EXAMPLES:
            examples[why].append(row["url"] or row["key"])


def _clear(directory: Path) -> None:
    """Take away what was written, so that the same command with better flags finds a clean place."""
    shutil.rmtree(directory / "work")
    for path in directory.iterdir():
        if _OURS.fullmatch(path.name):
            path.unlink()
