"""Buckets: the samples of every pseudo-label in shards of their own.

Two passes, each a list of independent items whose results do not depend on who does them. First every unit,
a run of source shards, gets a file of its labelled rows, sorted by label. The counts alone then say what each
bucket shard holds (`assign`); second, each is written, in one go, by reading its samples out of the source
tars. Every payload is read once and written once.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mcl_clip.artifacts import atomic_path, make_directory, read_json, write_json
from mcl_clip.errors import UserError
from mcl_clip.left_out import Record
from mcl_clip.shards.assign import Assignment, assign, cut_units
from mcl_clip.shards.copying import WriteShard, tar_path
from mcl_clip.shards.labels import ShardLabels
from mcl_clip.shards.manifest import Manifest, tell_left_out, write_manifest
from mcl_clip.shards.pictures import tell_pictures, total
from mcl_clip.shards.pool import part_of, run
from mcl_clip.shards.resize import Resize
from mcl_clip.shards.sources import absolute
from mcl_clip.shards.units import Group, WriteUnit, count_units
from mcl_clip.world import World, appears

UNIT_SAMPLES = 65536
COUNTS = "counts.npy"  # what the first rank has found in all unit files; the others map it


def write_buckets(
    source: Manifest,
    labels: ShardLabels,
    output_dir: str | os.PathLike,
    *,
    index_only: bool = False,
    resize: Resize | None = None,
    shard_size: int = 1000,
    unit_samples: int = UNIT_SAMPLES,
    workers: int = 1,
    world: World | None = None,
    progress: bool = False,
) -> Manifest:
    """Group the samples of `source` by label into `output_dir`, `shard_size` samples a shard, all as often repeated.

    `source` may be an index of tars, or buckets of an earlier stage. With `index_only` no tars are written:
    the shards are rows that point into the source's tars. `resize` makes pictures smaller on the way; what became of
    them is counted. Samples without a label are left out and counted. The ranks of a `world` all call this. Memory is
    bounded by `unit_samples` rows and one shard. Finished buckets of the same source and labels are reused, a run that
    was killed goes on; raises `UserError` for a directory that holds anything else, and for labels that do not fit.
    """
    if resize and index_only:
        raise UserError("--mcl-resize needs tars to write the pictures to: leave --mcl-index-only out")
    directory, work = Path(output_dir), Path(output_dir) / "work"
    job = {
        "kind": "index-only" if index_only else "buckets",
        "source": source.hash,
        "labels": labels.hash,
        "resize": asdict(resize) if resize else None,
        "shard_size": shard_size,
    }
    world = world or World()

    def is_finished() -> bool:
        if (directory / "manifest.json").exists():
            _check_finished(directory, job, source)
            return True
        labels.check_shards(source.source_names)
        _begin(directory, {**job, "unit_samples": unit_samples})
        return False

    def each(task: Callable[[Any], Any], items: Any, title: str, unit: str) -> list[tuple[Any, Any]]:
        mine = part_of(items, world.rank, world.world_size)
        done = run(task, mine, workers)
        return list(tqdm(done, title, len(mine), unit=unit, disable=not progress or not world.is_first))

    if not world.share(is_finished):
        units = cut_units(source.shard_size, unit_samples)
        each(WriteUnit(source, labels, units, work), range(len(units)), "labels", "unit")
        world.barrier()
        counted: list[tuple[list[Group], Record]] = []

        def count() -> None:
            groups, counts, left_out = count_units(work, len(units))
            if not groups:
                raise UserError(f"no sample of {source.directory} has a label; look at failed.jsonl of the clusters")
            with atomic_path(work / COUNTS) as temporary, open(temporary, "wb") as file:
                np.save(file, counts)
            counted.append((groups, left_out))

        world.share(count)
        assignment = assign(np.load(appears(work / COUNTS, world), mmap_mode="r"), shard_size)
        task = WriteShard(source, assignment, work, directory, index_only, resize)
        written = world.gather(each(task, assignment.order.tolist(), "buckets", "shard"))
        world.share(lambda: _commit(directory, work, source, job, *counted[0], assignment, written))
    manifest = Manifest.load(appears(directory / "manifest.json", world).parent)
    if world.is_first:
        tell_left_out(manifest)
        tell_pictures(manifest)
    return manifest


def _begin(directory: Path, job: dict[str, Any]) -> None:
    """Claim an empty directory for this job, or go on with it."""
    make_directory(directory)
    claim = directory / "work" / "job.json"
    if claim.exists():
        _refuse_other(directory, read_json(claim), job, "holds unfinished buckets of")
    elif any(entry.name != "work" for entry in directory.iterdir()):
        raise UserError(f"{directory} is not empty and holds no buckets; choose another directory")
    else:
        write_json(claim, job)


def _check_finished(directory: Path, job: dict[str, Any], source: Manifest) -> None:
    manifest = Manifest.load(directory)
    _refuse_other(directory, manifest.made_from, job, "was made from")
    if manifest.kind == "index-only" and manifest.tars.paths != (
        paths := [absolute(path) for path in source.tars.paths]
    ):
        manifest.relocate(paths)
    shutil.rmtree(directory / "work", ignore_errors=True)


def _refuse_other(directory: Path, old: dict[str, Any], new: dict[str, Any], verb: str) -> None:
    different = [name for name in new if old.get(name) != new[name]]
    if different:
        raise UserError(
            f"{directory} {verb} another {', '.join(different)} than this run; delete it, or choose another directory"
        )


def _commit(
    directory: Path,
    work: Path,
    source: Manifest,
    job: dict[str, Any],
    groups: list[Group],
    left_out: Record,
    assignment: Assignment,
    written: list[list[tuple[int, dict[str, Any]]]],
) -> None:
    by_shard = {shard: fact for part in written for shard, fact in part}
    facts = [by_shard[shard] for shard in range(len(by_shard))]
    shards = range(len(facts))
    pictures = {"pictures": total(fact["pictures"] for fact in facts)} if job["resize"] else {}
    label_paths = list(dict.fromkeys(label for label, _ in groups))
    index_of = {label: index for index, label in enumerate(label_paths)}
    labels = np.array([index_of[label] for label, _ in groups])
    if job["kind"] == "buckets":
        tars = {
            "path": [str(tar_path(directory, shard).relative_to(directory)) for shard in shards],
            "bytes": [fact["tar_bytes"] for fact in facts],
            "rest_crc32": [fact["rest_crc32"] for fact in facts],
        }
    else:
        table = source.tar_table
        paths = [absolute(path) for path in source.tars.paths]
        tars = {"path": paths, "bytes": table["bytes"], "rest_crc32": table["rest_crc32"]}
    write_manifest(
        directory,
        job["kind"],
        shards={
            "name": [f"{shard:08d}" for shard in shards],
            "label": labels[assignment.group],
            "repeats": np.array([repeats for _, repeats in groups])[assignment.group],
            "samples": [fact["samples"] for fact in facts],
            "failed": np.zeros(len(facts), np.int32),
            "bytes": [fact["bytes"] for fact in facts],
            "rows_sha256": [fact["rows_sha256"] for fact in facts],
        },
        tars=tars,
        label_paths=label_paths,
        source_names=source.source_names,
        caption_key=source.caption_key,
        made_from={**job, **pictures},
        left_out=left_out,
    )
    shutil.rmtree(work)
