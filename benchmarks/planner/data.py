"""The directories that a job of 2e9 samples finds: empty tars, their index, and buckets, in numbers per shard."""

import argparse
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from mcl_clip import seeds
from mcl_clip.shards.manifest import write_manifest
from mcl_clip.shards.offsets import ORIGIN_SCHEMA, offsets_path, rows_sha256, write_rows

OPENED = 64  # shards that have offsets, for a reader to open
FOLDER = 1000  # tars in a folder


def tar_pattern(options: argparse.Namespace, directory: Path) -> str:
    """The source as --train-data names it; options.samples samples, options.shard_size a tar."""
    folders = -(-options.samples // options.shard_size // FOLDER)
    return f"{directory}/tars/{{00000..{folders - 1:05d}}}"


def write_source(options: argparse.Namespace, directory: Path) -> None:
    """Empty tars, FOLDER to a folder, and the index of them in `directory/source`."""
    count = -(-options.samples // options.shard_size)
    paths, times = [], []
    for number in tqdm(range(count), "tars", leave=False, disable=None):
        folder = directory / f"tars/{number // FOLDER:05d}"
        if number % FOLDER == 0:
            folder.mkdir(parents=True)
        paths.append(f"{folder}/{number:08d}.tar")
        descriptor = os.open(paths[-1], os.O_CREAT | os.O_WRONLY)
        times.append(os.fstat(descriptor).st_mtime_ns)
        os.close(descriptor)
    sizes = np.full(count, options.shard_size, np.int32)
    _write(options, directory / "source", "source", sizes, np.zeros(count, np.int32), paths, times, [""])


def write_buckets(options: argparse.Namespace, directory: Path) -> None:
    """Buckets of sizes k ** -tail, each cut into full shards and a rest, as mcl-shards leaves them; OPENED offsets."""
    shares = np.arange(1, options.labels + 1) ** -options.tail
    sizes = np.floor(shares / shares.sum() * options.samples).astype(np.int64)
    sizes[0] += options.samples - sizes.sum()
    counts = -(-sizes // options.shard_size)
    label = np.repeat(np.arange(options.labels, dtype=np.int32), counts)
    size = np.full(len(label), options.shard_size, np.int32)
    size[np.cumsum(counts) - 1] = sizes - (counts - 1) * options.shard_size
    paths = [f"tars/{shard // 1_000_000:02d}/{shard // 1000 % 1000:03d}/{shard:08d}.tar" for shard in range(len(label))]
    labels = [f"{label // 100}/{label // 10 % 10}/{label % 10}" for label in range(options.labels)]
    _write(options, directory / "buckets", "buckets", size, label, paths, None, labels)


def _write(options, directory, kind, size, label, paths, times, labels) -> None:
    directory.mkdir(parents=True)
    numbers = np.zeros(options.shard_size, np.int64)
    columns = dict.fromkeys(ORIGIN_SCHEMA.names, numbers)
    keys = [f"{row:06d}" for row in range(options.shard_size)]
    rows = pa.table(columns | {"key": keys, "source_key": keys}, ORIGIN_SCHEMA)
    for shard in range(min(OPENED, len(size))):
        write_rows(offsets_path(directory, shard), rows, {})
    words = seeds.generator(options.seed).integers(0, 2**63, (len(size), 4))
    content = ["".join(f"{word:016x}" for word in row) for row in words.tolist()]
    content[:OPENED] = [rows_sha256(rows)] * min(OPENED, len(size))
    tar_bytes = size.astype(np.int64) * int(options.sample_kib * 1024) if times is None else np.zeros(len(size), int)
    write_manifest(
        directory,
        kind,
        shards={
            "name": [f"{shard:08d}" for shard in range(len(size))],
            "label": label,
            "samples": size,
            "failed": np.zeros(len(size), np.int32),
            "bytes": size.astype(np.int64) * int(options.sample_kib * 1024),
            "rows_sha256": content,
        },
        tars={
            "path": paths,
            "bytes": tar_bytes,
            "rest_crc32": np.zeros(len(size), np.uint32),
            **({} if times is None else {"mtime_ns": times}),
        },
        label_paths=labels,
        source_names=None if kind == "source" else [f"{n:08d}" for n in range(options.samples // options.shard_size)],
    )
