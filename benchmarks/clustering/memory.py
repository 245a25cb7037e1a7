"""Peak memory of clustering few and many samples through a reservoir of the same size, each in its own process."""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.clustering.shards import index_of, jpeg
from mcl_clip.clustering.stage import cluster_stage
from mcl_clip.models.stage_model import save_stage_model
from mcl_clip.openclip.configs import get_model_config
from mcl_clip.openclip.models import create_model
from mcl_clip.shards.manifest import Manifest

MODEL = "mcl-tiny-vit"
SHARD_SIZE = 500


def measure(options: argparse.Namespace, folder: Path) -> dict:
    """MiB at both sizes; growth a further sample, to compare with the bytes of a feature in fp32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = create_model(MODEL)
    config = get_model_config(MODEL)
    folder.mkdir()
    save_stage_model(model, folder / "stage", model_cfg=config, preprocess_cfg=model.visual.preprocess_cfg)
    images = [jpeg((32, 32), options.seed, number) for number in range(100)]
    peaks = []
    for samples in options.sizes:
        index = index_of([images[number % 100] for number in range(samples)], folder / str(samples), SHARD_SIZE)
        command = [sys.executable, "-m", "benchmarks.clustering.memory", folder / "stage", index.directory]
        reservoir = min(options.sizes) // 5
        ran = subprocess.run([*map(str, command), str(reservoir)], check=True, stdout=subprocess.PIPE, text=True)
        peaks.append(json.loads(ran.stdout.splitlines()[-1]))
    further = abs(options.sizes[1] - options.sizes[0]) or 1
    return {
        "peak_mib": [round(peak / 2**20, 1) for peak in peaks],
        "peak_memory_ratio": round(peaks[1] / peaks[0], 4),
        "peak_bytes_per_further_sample": round((peaks[1] - peaks[0]) / further, 1),
        "feature_bytes": 4 * config["embed_dim"],
        "reservoir": min(options.sizes) // 5,
    }


def peak_bytes() -> int:
    """Most memory that this process held; getrusage would count its parent's from before exec too."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    stage, data, reservoir = sys.argv[1:]
    manifest = Manifest.load(data)
    cluster_stage(stage, manifest, Path(data).with_name("clusters"), k=8, reservoir=int(reservoir), precision="fp32")
    print(peak_bytes())
