"""Images a second in mcl-zero-shot with a tiny model: the training decoder, and open_clip's own preprocessing.

Both go through the same scorer and threads; passes alternate.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

import mcl_clip
from benchmarks.clustering.shards import jpeg
from eval.data.classification import open_set
from eval.data.images import THREADS
from eval.models import ScoredModel
from eval.tasks.zero_shot import evaluate
from mcl_clip.models.stage_model import save_stage_model
from mcl_clip.openclip.models import CLIP, set_model_preprocess_cfg
from mcl_clip.openclip.transforms import PreprocessCfg

TINY_VIT = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 224, "layers": 1, "width": 32, "head_width": 32, "patch_size": 56},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},
}


def main(arguments: list[str] | None = None) -> int:
    """Write a folder of images, score it by turns, print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--images", type=int, default=1024, help="JPEG of 500 x 375")
    parser.add_argument("--workers", type=int, default=THREADS)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5, help="passes of each, of which the median counts")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="zero_shot-") as temporary:
        result = _measure(options, Path(temporary))
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


def _measure(options: argparse.Namespace, folder: Path) -> dict:
    scored = ScoredModel(*mcl_clip.load(_tiny(folder / "model"), options.device), workers=options.workers)
    open_clips = scored.preprocess
    by = {"ours": scored, "open_clip": replace(scored, preprocess=lambda image: open_clips(image))}
    for number in range(options.images):
        path = folder / "set" / f"class {number % 2}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg((500, 375), 0, number % 64))
    data = open_set(str(folder / "set"), templates="simple")
    rates: dict[str, list[float]] = {name: [] for name in by}
    busy: dict[str, list[float]] = {name: [] for name in by}
    for turn in tqdm(range(options.rounds + 1), "zero-shot", leave=False, disable=None):
        for name, model in by.items():
            begun, used = time.perf_counter(), time.process_time()
            evaluate(model, data, batch_size=options.batch_size, cache=folder)
            if turn:
                rates[name].append(options.images / (time.perf_counter() - begun))
                busy[name].append(1e3 * (time.process_time() - used) / options.images)
    ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates["open_clip"], strict=True)]
    return {
        "images_per_s": round(statistics.median(rates["ours"]), 1),
        "open_clip_images_per_s": round(statistics.median(rates["open_clip"]), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_by_round": [round(ratio, 3) for ratio in ratios],
        **{f"{name}_processor_ms": round(statistics.median(each), 2) for name, each in busy.items()},
        **{name: value for name, value in vars(options).items() if name != "json"},
        "torch": torch.__version__,
    }


def _tiny(directory: Path) -> str:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIP(**TINY_VIT)
    set_model_preprocess_cfg(model, vars(PreprocessCfg()))
    save_stage_model(model, directory, model_cfg=TINY_VIT, preprocess_cfg=vars(PreprocessCfg()))
    return str(directory)


if __name__ == "__main__":
    raise SystemExit(main())
