"""mcl-shards pack: tables, folders, annotations and `datasets` as tars."""

import argparse
from pathlib import Path

from mcl_clip.errors import UserError
from mcl_clip.packing.job import pack
from mcl_clip.packing.open import Wanted, open_source
from training.ranks import Ranks


def add_pack_flags(command: argparse.ArgumentParser) -> None:
    """The flags of the subcommand; open_clip's keep their names and defaults."""
    add = command.add_argument
    add(
        "source",
        help="a CSV or TSV, parquet (a file or a folder), JSON lines, COCO captions JSON, a folder with NAME.txt "
        "beside NAME.jpg, a folder per class, what `save_to_disk` wrote, or the name of a data set on the hub",
    )
    add("--output", required=True, type=Path, help="directory to write; the same command resumes")
    add("--mcl-shard-size", "--shard-size", type=int, default=1000, help="rows of a tar (default 1000)")
    add(
        "--csv-img-key",
        help="column of the image: a path, bytes, or base64 (default: filepath; not in a CSV: the usual names)",
    )
    add(
        "--csv-caption-key",
        help="column of the caption: a text, or a list of several (default: title; not in a CSV: the usual names)",
    )
    add("--csv-separator", default="\t", help="what separates the columns of a CSV (default: a tab)")
    add("--image-dir", help="where relative paths start (default: the folder of SOURCE)")
    add("--caption-template", help="caption of an image in a folder per class: {} or {c} stands for the folder's name")
    add(
        "--compute-hash", choices=["md5", "sha256", "sha512"],
        help="also record this hash of every image, as img2dataset's flag does (default: none)",
    )  # fmt: skip
    add("--split", help="of a datasets or Karpathy file (default: train; Karpathy: all)")
    add("--subset", help="configuration of a data set on the hub")


def run_pack(options: argparse.Namespace, ranks: Ranks) -> str:
    """Pack, on every rank; returns what to tell."""
    if options.mcl_shard_size < 1:
        raise UserError(f"--mcl-shard-size {options.mcl_shard_size}: a shard holds at least one row")
    wanted = Wanted(
        image=options.csv_img_key,
        caption=options.csv_caption_key,
        separator=options.csv_separator,
        image_dir=options.image_dir,
        template=options.caption_template,
        subset=options.subset,
        split=options.split,
    )
    packed = pack(
        open_source(options.source, wanted),
        options.output,
        shard_size=options.mcl_shard_size,
        hash_name=options.compute_hash,
        workers=options.workers,
        world=ranks,
        progress=True,
    )
    return str(packed)
