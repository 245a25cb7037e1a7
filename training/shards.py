"""mcl-shards: index tars, group them into buckets, verify what stands on disk."""

import argparse
import os
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from mcl_clip.clustering.pseudo_labels import PseudoLabels, UserLabels
from mcl_clip.errors import UserError, exit_on_user_error
from mcl_clip.shards.buckets import write_buckets
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.labels import ShardLabels
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.sources import expand_sources, manifest_directory
from mcl_clip.shards.verify import verify


@exit_on_user_error
def main(arguments: list[str] | None = None) -> int:
    """Run one of the subcommands; `index` and `bucket` also under torchrun."""
    options = _parser().parse_args(arguments)
    return {"index": _index, "bucket": _bucket, "verify": _verify}[options.command](options)


def _index(options: argparse.Namespace) -> int:
    rank, world_size, barrier = _world()
    manifest = index_sources(
        expand_sources(options.train_data),
        options.output,
        workers=options.workers,
        caption_key=options.caption_key,
        rank=rank,
        world_size=world_size,
        barrier=barrier,
        progress=True,
    )
    if rank == 0:
        print(
            f"{options.output}: {manifest.num_samples} samples in {manifest.num_shards} shards, "
            f"{manifest.num_failed} without image or caption"
        )
    return 0


def _bucket(options: argparse.Namespace) -> int:
    if options.shard_size < 1:
        raise UserError(f"--shard-size {options.shard_size}: a shard holds at least one sample")
    rank, world_size, barrier = _world()
    output = Path(options.output)
    found = manifest_directory(options.train_data)
    if found:
        source = Manifest.load(found)
    else:
        source = index_sources(
            expand_sources(options.train_data),
            options.index or output.with_name(f"{output.name}-source"),
            workers=options.workers,
            caption_key=options.caption_key,
            rank=rank,
            world_size=world_size,
            barrier=barrier,
            progress=True,
        )
    labels: ShardLabels = UserLabels(options.labels) if options.labels else PseudoLabels(options.clusters)
    manifest = write_buckets(
        source,
        labels,
        output,
        index_only=options.mcl_index_only,
        shard_size=options.shard_size,
        workers=options.workers,
        rank=rank,
        world_size=world_size,
        barrier=barrier,
        progress=True,
    )
    if rank == 0:
        print(
            f"{output}: {manifest.num_samples} samples of {len(manifest.label_paths)} labels in "
            f"{manifest.num_shards} shards, {manifest.made_from['left_out']} without label left out"
        )
    return 0


def _verify(options: argparse.Namespace) -> int:
    sound = True
    for directory in options.directories:
        problems = verify(directory, workers=options.workers, progress=True)
        for problem in problems:
            print(f"{directory}: {problem}")
        print(f"{directory}: {len(problems)} problems" if problems else f"{directory}: all is well")
        sound = sound and not problems
    return 0 if sound else 1


def _world() -> tuple[int, int, Callable[[], None]]:
    """(rank, world size, barrier) under torchrun, else a world of one."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return 0, 1, lambda: None
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(days=7))

    def barrier() -> None:
        dist.barrier()

    return dist.get_rank(), world_size, barrier


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mcl-shards", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    index = commands.add_parser("index", help="index WebDataset tars; they are only read")
    bucket = commands.add_parser("bucket", help="group samples by label into shards of their own")
    check = commands.add_parser("verify", help="check every byte against index and manifest")
    for command in (index, bucket):
        command.add_argument(
            "--train-data",
            required=True,
            help="tars: a path, brace pattern, glob or directory, several joined by '::'"
            + ("; or a directory with a manifest.json" if command is bucket else ""),
        )
        command.add_argument("--output", required=True, help="directory to write")
        command.add_argument("--caption-key", help="take captions from this key of .json, not from .txt")
    labels = bucket.add_mutually_exclusive_group(required=True)
    labels.add_argument("--labels", help="parquet file with columns shard, key, label")
    labels.add_argument("--clusters", nargs="+", help="cluster directories of stages 0, 1, ... in order")
    bucket.add_argument("--index", help="where the index of --train-data goes (default: OUTPUT-source)")
    bucket.add_argument("--shard-size", type=int, default=1000, help="samples in a shard")
    bucket.add_argument(
        "--mcl-index-only", action="store_true", help="write no tars, only an index into those of the source"
    )
    check.add_argument("directories", nargs="+", help="directories with a manifest.json")
    for command in (index, bucket, check):
        command.add_argument("--workers", type=int, default=_cores(), help="processes on this rank")
    return parser


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


if __name__ == "__main__":
    sys.exit(main())
