"""Views that the loader delivers, against lightly's SimCLRTransform in a DataLoader over the same pictures.

`python -m benchmarks.input_pipeline --views 2`: epochs of the two are interleaved in one run. Pictures and views are
96 x 96 pixels, as STL-10's.
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

import torch
from lightly.data import LightlyDataset
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.pictures import write_shards
from mcl_clip.loading.loader import GlobalBatchLoader
from mcl_clip.loading.views import views_transform
from mcl_clip.shards.captions import NO_CAPTIONS
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.manifest import Manifest

SIZE = 96
PREPROCESS = {"size": SIZE, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def measure_views(options: argparse.Namespace, folder: Path) -> dict:
    """Images a second, of which each has two views, by both; and the ratio."""
    paths = write_shards(options, folder / "tars", size=SIZE)
    manifest = index_sources(paths, folder / "index", caption_key=NO_CAPTIONS)
    _write_files(manifest, folder / "files")
    ours = GlobalBatchLoader(
        manifest,
        seed=options.seed,
        stage=0,
        batch_size=options.batch_size,
        transform=views_transform(PREPROCESS),
        workers=options.workers,
    )
    theirs = DataLoader(
        LightlyDataset(str(folder / "files"), transform=SimCLRTransform(input_size=SIZE)),
        batch_size=options.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
    )
    rates: dict[str, list[float]] = {"ours": [], "lightly": []}
    for epoch in range(options.epochs + 1):
        ours.set_epoch(epoch)
        for name, batches in (
            ("ours", (ours.normalize(batch.images)[:, 0] for batch in ours)),
            ("lightly", (views[0] for views, _, _ in theirs)),
        ):
            rate = _rate(batches, options.batch_size)
            if epoch:
                rates[name].append(rate)
    ratio = [mine / other for mine, other in zip(rates["ours"], rates["lightly"], strict=True)]
    return {
        "samples_per_s": round(statistics.median(rates["ours"]), 1),
        "lightly_samples_per_s": round(statistics.median(rates["lightly"]), 1),
        "ratio": round(statistics.median(ratio), 3),
        "ratio_per_epoch": [round(value, 3) for value in ratio],
        "samples": manifest.num_samples,
        **{name: value for name, value in vars(options).items() if name != "json"},
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "lightly": version("lightly"),
    }


def _rate(batches: Iterable[torch.Tensor], batch_size: int) -> float:
    """Of an epoch, from asking for its first batch to having its last."""
    start, samples = time.perf_counter(), 0
    for images in batches:
        assert images.shape == (batch_size, 3, SIZE, SIZE) and images.dtype == torch.float32
        samples += len(images)
    return samples / (time.perf_counter() - start)


def _write_files(manifest: Manifest, folder: Path) -> None:
    """The same pictures as files."""
    folder.mkdir()
    for shard in range(manifest.num_shards):
        rows = manifest.open_shard(shard)
        for row in range(len(rows)):
            (folder / f"{rows.keys[row]}.jpg").write_bytes(rows.read_image(row))
    assert Image.open(next(folder.iterdir())).size == (SIZE, SIZE)
