"""Time a sample from tar to feature, over that of the model alone on tensors that are decoded already.

The bare pass goes through the same batches in two ways: one after the other with PyTorch's own threads, and several at
once on one thread each, as `embed` does on a CPU. The faster of the two counts. Rounds alternate.
"""

import argparse
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from tqdm import tqdm

from benchmarks.clustering.clock import timed
from benchmarks.clustering.shards import index_of, jpeg
from mcl_clip.clustering.encoder import Encoder
from mcl_clip.clustering.features import embed
from mcl_clip.clustering.threads import encode_in_order
from mcl_clip.loading.augment import eval_transform
from mcl_clip.loading.normalize import Normalize
from mcl_clip.openclip.models import create_model
from mcl_clip.shards.manifest import Manifest


def measure(options: argparse.Namespace, folder: Path) -> dict:
    """Milliseconds a sample of both; `decode_ms` is what one core needs for one image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = create_model(options.model).to(options.device).eval()
    transform = eval_transform(model.visual.preprocess_cfg)
    prepare = Normalize(transform.mean, transform.std).to(options.device)
    encoder = Encoder(model, transform, prepare, open_clip.get_tokenizer(options.model), precision=options.precision)
    images = [jpeg((500, 375), options.seed, number) for number in range(options.images)]
    manifest = index_of(images, folder, shard_size=-(-options.images // 2))
    decode_s, pixels = timed(lambda: [transform(data)[0] for data in images])
    starts = range(0, options.images, options.batch_size)
    batches = [torch.stack(pixels[start : start + options.batch_size]) for start in starts]
    _forward(encoder, batches[:1])
    extraction, plain, several = [], [], []
    for _ in tqdm(range(options.rounds), "extraction", leave=False, disable=None):
        extraction.append(timed(lambda: _extract(encoder, manifest, options))[0])
        plain.append(timed(lambda: _forward(encoder, batches))[0])
        several.append(timed(lambda: _forward_several(encoder, batches))[0])
    forward = min(plain, several, key=statistics.median)
    ratios = [whole / bare for whole, bare in zip(extraction, forward, strict=True)]
    return {
        "extraction_overhead": round(statistics.median(ratios), 3),
        "extraction_overhead_by_round": [round(ratio, 3) for ratio in ratios],
        "extraction_ms": round(1e3 * statistics.median(extraction) / options.images, 2),
        "forward_ms": round(1e3 * statistics.median(forward) / options.images, 2),
        "forward_plain_ms": round(1e3 * statistics.median(plain) / options.images, 2),
        "decode_ms": round(1e3 * decode_s / options.images, 2),
        "image_kb": round(sum(map(len, images)) / options.images / 1000, 1),
    }


def _extract(encoder: Encoder, manifest: Manifest, options: argparse.Namespace) -> None:
    requests = [(shard, np.arange(manifest.shard_size[shard])) for shard in range(manifest.num_shards)]
    parts = embed(encoder, manifest, requests, batch_size=options.batch_size, workers=options.workers)
    assert sum(len(part.rows) for part in parts) == options.images


def _forward_several(encoder: Encoder, batches: list[torch.Tensor]) -> None:
    outputs = [features for _, features in encode_in_order(encoder, [_Pixels(batch) for batch in batches])]
    outputs[-1]["image"].cpu()


@dataclass
class _Pixels:
    images: torch.Tensor | None
    texts: torch.Tensor | None = None


def _forward(encoder: Encoder, batches: list[torch.Tensor]) -> None:
    for batch in batches:
        features = encoder.encode(batch, None)
    features["image"].cpu()  # waits for the device
