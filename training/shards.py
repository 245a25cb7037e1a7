"""mcl-shards: pack data into tars, index tars, group them into buckets, verify what stands on disk."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mcl_clip.clustering.pseudo_labels import PseudoLabels, UserLabels
from mcl_clip.errors import UserError
from mcl_clip.launch import one_process, take_slurm
from mcl_clip.shards.apart import Apart
from mcl_clip.shards.buckets import write_buckets
from mcl_clip.shards.labels import ShardLabels
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.pictures import line
from mcl_clip.shards.resize import Resize
from mcl_clip.shards.sources import manifest_directory
from mcl_clip.shards.verify import verify
from training.arrows.source import index, open_or_index
from training.endings import end
from training.pack import add_pack_flags, run_pack
from training.ranks import Ranks, join, leave


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the subcommands, `pack`, `index` and `bucket` also under torchrun and srun.

    Exit status 2 for a mistake in flags or input, 1 when `verify` finds a problem.
    """
    options = _parser().parse_args(arguments)
    take_slurm()
    ranks = Ranks()
    try:
        if options.command == "verify":
            return one_process(_verify)(options)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            ranks = join("cpu", "gloo", None, False)
        _check_workers(options)
        said = {"index": _index, "bucket": _bucket, "pack": run_pack}[options.command](options, ranks)
        if ranks.is_first:
            print(said)
        leave(ranks)
        return 0
    except Exception as error:
        return end(ranks, error)


def _check_workers(options: argparse.Namespace) -> None:
    if options.workers < 0:
        raise UserError(f"--workers {options.workers}: give 1 or more processes")


def _index(options: argparse.Namespace, ranks: Ranks) -> str:
    manifest = index(
        options.train_data,
        options.output,
        ranks,
        caption_key=options.mcl_caption_key,
        factors=options.train_data_upsampling_factors,
        skip_broken=options.mcl_skip_broken,
        apart=_apart(options),
        workers=options.workers,
    )
    apart = f", {manifest.num_apart} more set apart ({manifest.apart})" if manifest.apart else ""
    return (
        f"{options.output}: {manifest.num_samples} samples in {manifest.num_shards} shards{apart}, "
        f"{manifest.num_failed} without image or caption"
    )


def _apart(options: argparse.Namespace) -> Apart | None:
    if options.mcl_fit_share is not None:
        return Apart(share=options.mcl_fit_share, key=options.mcl_fit_group, seed=options.seed)
    if options.mcl_fit_group:
        raise UserError("--mcl-fit-group needs --mcl-fit-share")
    return None


def _bucket(options: argparse.Namespace, ranks: Ranks) -> str:
    if options.mcl_shard_size < 1:
        raise UserError(f"--mcl-shard-size {options.mcl_shard_size}: a shard holds at least one sample")
    labels: ShardLabels = UserLabels(options.labels) if options.labels else PseudoLabels(options.clusters)
    manifest = write_buckets(
        _source(options, ranks),
        labels,
        options.output,
        index_only=options.mcl_index_only,
        resize=_resize(options),
        shard_size=options.mcl_shard_size,
        workers=options.workers,
        world=ranks,
        progress=True,
    )
    left_out = sum(entry["count"] for entry in manifest.left_out.values())
    return (
        f"{options.output}: {manifest.num_samples} samples of {len(manifest.label_paths)} labels in "
        f"{manifest.num_shards} shards, {left_out} without label left out"
        + (f"; {line(pictures)}" if (pictures := manifest.made_from.get("pictures")) else "")
    )


def _resize(options: argparse.Namespace) -> Resize | None:
    if options.mcl_resize is not None:
        return Resize(options.mcl_resize, options.mcl_resize_quality)
    if options.mcl_resize_quality != Resize.quality:
        raise UserError("--mcl-resize-quality needs --mcl-resize")
    return None


def _source(options: argparse.Namespace, ranks: Ranks) -> Manifest:
    if options.index and manifest_directory(options.train_data):
        raise UserError(f"--index is for tars, but {options.train_data} is indexed already; leave it out")
    directory = options.index or options.output.with_name(f"{options.output.name}-source")
    return open_or_index(
        options.train_data,
        directory,
        ranks,
        caption_key=options.mcl_caption_key,
        factors=options.train_data_upsampling_factors,
        skip_broken=options.mcl_skip_broken,
        workers=options.workers,
    )


def _verify(options: argparse.Namespace) -> int:
    _check_workers(options)
    sound = True
    for directory in options.directories:
        problems = verify(directory, workers=options.workers, progress=True)
        for problem in problems:
            print(f"{directory}: {problem}")
        print(f"{directory}: {len(problems)} problems" if problems else f"{directory}: all is well")
        sound = sound and not problems
    return 0 if sound else 1


# Of the whole command and of each subcommand; they run as they stand after `make demo`.
_EXAMPLES = {
    "": (
        "mcl-shards pack runs/demo-data/zero_shot/shape/test --caption-template 'a photo of {}' --output runs/shapes",
        "mcl-shards index --train-data runs/demo-data/train --output runs/demo-index",
    ),
    "pack": (
        "mcl-shards pack runs/demo-data/zero_shot/color/test --caption-template 'a photo of {}' --output runs/colors",
        "mcl-shards pack runs/demo-data/zero_shot --caption-template {} --workers 1 --output runs/names",
    ),
    "index": (
        "mcl-shards index --train-data runs/demo-data/train --output runs/demo-index",
        "mcl-shards index --train-data 'runs/demo-data/train/{00000..00001}.tar' --mcl-caption-key caption --output "
        "runs/demo-json-index",
    ),
    "bucket": (
        "mcl-shards bucket --train-data runs/demo/source --clusters runs/demo/stage_0/clusters --output "
        "runs/demo-buckets",
        "mcl-shards bucket --train-data runs/demo-data/train --clusters runs/demo/stage_0/clusters --mcl-index-only "
        "--output runs/demo-rows",
    ),
    "verify": (
        "mcl-shards verify runs/demo/source",
        "mcl-shards verify runs/demo/source runs/demo/stage_1/buckets --workers 2",
    ),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mcl-shards", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="write tables, folders, annotations and `datasets` as tars")
    add_pack_flags(packing)
    indexing = commands.add_parser("index", help="index WebDataset tars; they are only read")
    bucket = commands.add_parser("bucket", help="group samples by label into shards of their own")
    check = commands.add_parser("verify", help="check every byte against index and manifest")
    for command in (indexing, bucket):
        command.add_argument(
            "--train-data",
            required=True,
            help="tars: a path, URL, brace pattern, glob or directory, several joined by '::' (URLs are read through "
            "a cache: MCL_CACHE_DIR, MCL_CACHE_GIB)"
            + ("; or a directory with a manifest.json" if command is bucket else ""),
        )
        command.add_argument("--output", required=True, type=Path, help="directory to write; the same command resumes")
        command.add_argument(
            "--mcl-caption-key",
            "--caption-key",
            help="take captions from this key of .json, or several, 'a;b', not from .txt; '': samples need no caption",
        )
        command.add_argument(
            "--train-data-upsampling-factors",
            metavar="N::N",
            help="how often an epoch takes each sample of each source of --train-data: whole numbers, joined by '::'",
        )
        command.add_argument("--mcl-skip-broken", action="store_true", help="leave broken tars out, counted and listed")
    indexing.add_argument(
        "--mcl-fit-share",
        type=float,
        help="set this share of the samples apart from all training, in whole groups, to fit a fusion on (0.02, say)",
    )
    indexing.add_argument(
        "--mcl-fit-group", help="the groups: one value under this key of .json each (default: one caption, the first)"
    )
    indexing.add_argument("--seed", type=int, default=0, help="of the choice of groups (default 0)")
    labels = bucket.add_mutually_exclusive_group(required=True)
    labels.add_argument("--labels", help="parquet file with columns shard, key, label")
    labels.add_argument("--clusters", nargs="+", help="cluster directories of stages 0, 1, ... in order")
    bucket.add_argument("--index", type=Path, help="where the index of --train-data goes (default: OUTPUT-source)")
    bucket.add_argument(
        "--mcl-shard-size", "--shard-size", type=int, default=1000, help="samples in a shard (default 1000)"
    )
    bucket.add_argument(
        "--mcl-index-only", action="store_true", help="write no tars, only an index into those of the source"
    )
    bucket.add_argument(
        "--mcl-resize", type=int, metavar="SIDE",
        help="encode pictures anew with a shorter side of so many pixels (256, say); smaller ones are copied",
    )  # fmt: skip
    bucket.add_argument(
        "--mcl-resize-quality", type=int, default=Resize.quality, help="of JPEG and WebP that are resized (default 90)"
    )
    check.add_argument("directories", nargs="+", help="directories with a manifest.json")
    for command in (indexing, bucket, check):
        command.add_argument(
            "--workers", type=int, default=_cores(), help="processes on this rank (default: its cores)"
        )
    packing.add_argument(
        "--workers",
        type=int,
        default=2 * _cores(),
        help="processes on this rank (default: twice its cores, for half of them wait for the disk)",
    )
    for name, command in {"": parser, **commands.choices}.items():
        examples = "".join(f"  {example}\n" for example in _EXAMPLES[name])
        command.description = f"examples:\n{examples}\n{command.description or ''}"
        command.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


if __name__ == "__main__":
    sys.exit(main())
