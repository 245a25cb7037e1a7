"""Images a second from tars to normalised pixels on the device, and how long a step waits for them."""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import open_clip
import torch

from benchmarks.clustering.shards import index_of, jpeg
from mcl_clip.loading.augment import train_transform
from mcl_clip.loading.loader import GlobalBatchLoader
from mcl_clip.openclip.transforms import PreprocessCfg


def main(arguments: list[str] | None = None) -> int:
    """Print the rate of the epochs after the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    options = parser.parse_args(arguments)
    different = [jpeg((500, 375), number) for number in range(min(options.images, 64))]
    with tempfile.TemporaryDirectory(prefix="gpu-loader-") as folder:
        images = [different[number % len(different)] for number in range(options.images)]
        manifest = index_of(images, Path(folder) / "data", shard_size=min(1024, options.images))
        loader = GlobalBatchLoader(
            manifest,
            seed=0,
            stage=0,
            batch_size=options.batch_size,
            transform=train_transform(PreprocessCfg(size=224)),
            tokenizer=open_clip.get_tokenizer("ViT-B-32"),
            workers=options.workers,
            device=options.device,
            dtype=torch.bfloat16,
        )
        rates = []
        for epoch in range(options.epochs + 1):
            loader.set_epoch(epoch)
            begun, samples = time.perf_counter(), 0
            for batch in loader:
                pixels = loader.normalize(batch.images)
                samples += len(pixels)
            assert pixels.device.type == options.device and pixels.dtype == torch.bfloat16
            if options.device == "cuda":
                torch.cuda.synchronize()
            rates.append(samples / (time.perf_counter() - begun))
    settings = {name: getattr(options, name) for name in ("images", "batch_size", "workers")}
    print(json.dumps({"samples_per_s": round(statistics.median(rates[1:]), 1), **settings}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
