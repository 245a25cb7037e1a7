"""Clustering 100,000 random images: tars to labels, by the pass and the fit, and whether faiss had a device for it."""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import faiss
import torch

from benchmarks.clustering.shards import index_of, jpeg
from mcl_clip.clustering.stage import cluster_stage
from mcl_clip.models.stage_model import complete_model_cfg, save_stage_model
from mcl_clip.openclip.configs import get_model_config
from mcl_clip.openclip.models import create_model


def main(arguments: list[str] | None = None) -> int:
    """Print samples a second of the whole, and its precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--different", type=int, default=2048, help="files; repeated under other keys up to --images")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--clusters", type=int, default=10)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    options = parser.parse_args(arguments)
    files = [jpeg((224, 224), number) for number in range(options.different)]
    with tempfile.TemporaryDirectory(prefix="gpu-clustering-") as temporary:
        folder = Path(temporary)
        images = [files[number % len(files)] for number in range(options.images)]
        manifest = index_of(images, folder / "data", shard_size=min(2000, options.images // 2))
        model = save_random(options.model, folder / "model")
        begun = time.perf_counter()
        clusters = cluster_stage(
            model,
            manifest,
            folder / "clusters",
            k=options.clusters,
            batch_size=options.batch_size,
            workers=options.workers,
            device=options.device,
        )
        seconds = time.perf_counter() - begun
    result = {"seconds": round(seconds, 2), "samples_per_s": round(options.images / seconds, 1)}
    result |= {"samples": clusters.info["samples"], "precision": clusters.info["settings"]["precision"]}
    result |= {"faiss": faiss.__version__, "faiss_gpus": getattr(faiss, "get_num_gpus", lambda: 0)()}
    print(json.dumps(result | {"model": options.model, "workers": options.workers}))
    return 0


def save_random(name: str, directory: Path) -> Path:
    """A stage directory of a model with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = create_model(name)
    config = complete_model_cfg(model, get_model_config(name))
    save_stage_model(model, directory, model_cfg=config, preprocess_cfg=model.visual.preprocess_cfg)
    return directory


if __name__ == "__main__":
    raise SystemExit(main())
