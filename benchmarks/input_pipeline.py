"""Samples a second that the loader delivers, against open_clip's WebDataset pipeline on the same shards.

Epochs of the two are interleaved in one run. open_clip's reader fails under webdataset 1.x, whose tar expander
yields a marker at the end of each shard; here it is told not to. Everything else is theirs.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import open_clip_train.data as theirs
import torch
import webdataset

from benchmarks.pictures import write_shards
from mcl_clip.loading.augment import train_transform
from mcl_clip.loading.loader import GlobalBatchLoader
from mcl_clip.loading.open_clip_data import OpenClipData
from mcl_clip.openclip.transforms import PreprocessCfg, image_transform_v2
from mcl_clip.plan.policy import Policy
from mcl_clip.shards.buckets import write_buckets
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.resize import RESIZED, Resize

CFG = PreprocessCfg(size=224)


def main(arguments: list[str] | None = None) -> int:
    """Write JPEG shards, read them epoch about, print samples a second of each and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--shard-size", type=int, default=256, help="samples in a shard")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4, help="measured epochs of each; one more warms up")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--views", type=int, default=1, choices=[1, 2], help="2: two views of images alone, against lightly's"
    )
    parser.add_argument(
        "--resize",
        type=int,
        help="ours on buckets written with --mcl-resize of so many pixels, open_clip's on the source",
    )
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="input_pipeline-") as temporary:
        result = (_measure if options.views == 1 else _measure_views)(options, Path(temporary))
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


def _measure_views(options: argparse.Namespace, folder: Path) -> dict:
    from benchmarks.input_views import measure_views  # lightly is a dependency of development alone

    return measure_views(options, folder)


def _measure(options: argparse.Namespace, folder: Path) -> dict:
    paths = write_shards(options, folder)
    source = index_sources(paths, folder / "index")
    manifest, begun = source, time.perf_counter()
    if options.resize:
        manifest = write_buckets(source, _OneLabel(), folder / "buckets", resize=Resize(options.resize))
    bucketing = time.perf_counter() - begun
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    ours, normalised = (
        _ours(manifest, options, tokenizer),
        _ours(manifest, options, tokenizer, normalise=True),
    )
    open_clips = _open_clips(paths, source.num_samples, options, tokenizer)
    rates: dict[str, list[float]] = {"samples": [], "normalised": [], "open_clip": []}
    for epoch in range(options.epochs + 1):
        for name, data in (("samples", ours), ("normalised", normalised), ("open_clip", open_clips)):
            data.set_epoch(epoch)
            rate = _samples_per_s(data.dataloader, options.batch_size)
            if epoch:
                rates[name].append(rate)
    first, shared = _first_batches(_ours(manifest, options, tokenizer), options.epochs)
    ratio = [mine / their for mine, their in zip(rates["samples"], rates["open_clip"], strict=True)]
    ratio_normalised = [mine / their for mine, their in zip(rates["normalised"], rates["open_clip"], strict=True)]
    return {
        "samples_per_s": round(statistics.median(rates["samples"]), 1),
        "normalised_samples_per_s": round(statistics.median(rates["normalised"]), 1),
        "open_clip_samples_per_s": round(statistics.median(rates["open_clip"]), 1),
        "ratio": round(statistics.median(ratio), 3),
        "ratio_normalised": round(statistics.median(ratio_normalised), 3),
        "ratio_per_epoch": [round(value, 3) for value in ratio],
        "ratio_normalised_per_epoch": [round(value, 3) for value in ratio_normalised],
        "first_batch_over_median": round(statistics.median(first), 3),
        "first_batch_over_median_per_epoch": [round(value, 3) for value in first],
        "shared_memory_mib": round(shared / 2**20, 1),
        "samples": manifest.num_samples,
        "image_kb": round(source.info["num_bytes"] / source.num_samples / 1000, 1),
        **(
            {"resized_per_s": round(source.num_samples / bucketing, 1), **manifest.made_from["pictures"][RESIZED]}
            if options.resize
            else {}
        ),
        **{name: value for name, value in vars(options).items() if name != "json"},
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "webdataset": webdataset.__version__,
    }


class _OneLabel:
    """All samples in one bucket."""

    hash = "one label"

    def labels_for(self, shard: str, keys: Sequence[str], *, partial: bool = False) -> list[str | None]:
        return ["0"] * len(keys)

    def check_shards(self, shards: Sequence[str]) -> None:
        pass


def _samples_per_s(batches, batch_size: int) -> float:
    """Rate of an epoch, from asking for its first batch to having its last."""
    start, samples = time.perf_counter(), 0
    for images, texts in batches:
        assert len(images) == len(texts) == batch_size
        samples += len(images)
    return samples / (time.perf_counter() - start)


def _first_batches(data: OpenClipData, epochs: int) -> tuple[list[float], int]:
    """From epoch 2 on, the wait for the first batch over the median interval; most shared memory of the machine beyond
    what there was, in bytes."""
    before, most = _shared_memory(), 0
    ratios = []
    for epoch in range(epochs + 1):
        data.set_epoch(epoch)
        times = [time.perf_counter()]
        for _ in data.dataloader:
            times.append(time.perf_counter())
            most = max(most, _shared_memory() - before)
        if epoch:
            intervals = np.diff(times)
            ratios.append(float(intervals[0] / np.median(intervals[1:])))
    return ratios, most


def _shared_memory() -> int:
    """Bytes in use of the file system that holds tensors on their way between processes."""
    status = os.statvfs("/dev/shm")
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def _ours(manifest: Manifest, options: argparse.Namespace, tokenizer, normalise: bool = False):
    """Our loader in the shape of open_clip's; without `normalise` it gives what a GPU is handed, uint8."""
    loader = GlobalBatchLoader(
        manifest,
        seed=options.seed,
        stage=0,
        batch_size=options.batch_size,
        transform=train_transform(CFG),
        tokenizer=tokenizer,
        workers=options.workers,
        policy=Policy(),
    )
    if not normalise:
        loader.normalize = torch.nn.Identity()  # type: ignore[assignment]
    return OpenClipData(loader)


def _open_clips(paths: list[str], num_samples: int, options: argparse.Namespace, tokenizer):
    theirs.tar_file_expander = partial(webdataset.tariterators.tar_file_expander, eof_value=None)
    args = types.SimpleNamespace(
        train_data="::".join(paths),
        train_num_samples=num_samples,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        batch_size=options.batch_size,
        world_size=1,
        workers=options.workers,
        seed=options.seed,
    )
    preprocess = image_transform_v2(CFG, is_train=True)
    return theirs.get_wds_dataset(args, preprocess, is_train=True, tokenizer=tokenizer)


if __name__ == "__main__":
    sys.exit(main())
