"""What a fused model costs: four ViT-B-32 stages that differ in the last 4 of 12 image blocks.

Weights are random; what is measured does not depend on them. One tower, the separate towers, the fused model, the
collapsed one and a student (mcl-distill), one model of a stage's architecture, are timed in turn, round after round,
and the median of the per-round ratios is reported, so that a change of the machine's speed hits all alike.
`--json` prints one line of JSON.
"""

import argparse
import copy
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import torch
from tqdm import tqdm

from mcl_clip.fusion.files import load_fused, save_fused
from mcl_clip.fusion.fused_model import FusedCLIP
from mcl_clip.fusion.stages import Stage
from mcl_clip.models.stage_model import complete_model_cfg, save_stage_model
from mcl_clip.openclip.configs import get_model_config
from mcl_clip.openclip.models import create_model


def make_stages(model_name: str, stages: int, own_blocks: int, device: str) -> list[Any]:
    """Open_clip models of random weights; every stage after the first moves its last `own_blocks` image blocks.

    What does not move is one tensor in memory, which keeps the benchmark below 3 GiB; each model runs by itself.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = create_model(model_name, device=device).eval()
    moving = {id(p) for block in last_blocks(base, own_blocks) for p in block.parameters()}
    models = [base]
    for number in range(1, stages):
        model = copy.deepcopy(base, {id(p): p for p in base.parameters() if id(p) not in moving})
        with torch.no_grad():
            for block in last_blocks(model, own_blocks):
                for parameter in block.parameters():
                    parameter.mul_(1 + 0.01 * number)
        models.append(model)
    return models


def last_blocks(model: Any, count: int) -> list[Any]:
    """The last image blocks of a ViT."""
    return list(model.visual.transformer.resblocks)[-count:]


def measure(variants: dict[str, Callable[[], Any]], rounds: int, device: str, progress: bool) -> dict[str, list[float]]:
    """Seconds of each variant in each round; the variants take turns, and their order rotates."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for number in tqdm(range(-1, rounds), disable=not progress, desc="rounds"):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            if device != "cpu":
                torch.cuda.synchronize()
            start = time.perf_counter()
            variants[name]()
            if device != "cpu":
                torch.cuda.synchronize()
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], ours: str, theirs: str) -> float:
    """Median over rounds of the cost of `ours` in units of `theirs`."""
    return statistics.median(a / b for a, b in zip(seconds[ours], seconds[theirs], strict=True))


def disk_ratio(fused: FusedCLIP) -> tuple[float, FusedCLIP]:
    """Bytes of the fused directory over those of one stage directory, and the fused model read back."""
    with tempfile.TemporaryDirectory() as folder:
        save_fused(fused, Path(folder) / "fused")
        first = fused.stage_info[0]
        save_stage_model(first.model, Path(folder) / "stage", **first.config, tokenizer=first.tokenizer)
        sizes = [
            sum(file.stat().st_size for file in (Path(folder) / name).rglob("*") if file.is_file())
            for name in ("fused", "stage")
        ]
        loaded = load_fused(Path(folder) / "fused")
        assert isinstance(loaded, FusedCLIP)
        return sizes[0] / sizes[1], loaded


@torch.inference_mode()
def run(options: argparse.Namespace) -> dict[str, Any]:
    """Build, check that nothing differs, and time."""
    device = options.device
    models = make_stages(options.model, options.stages, options.own_blocks, device)
    tokenizer = open_clip.get_tokenizer(options.model)
    cfg = get_model_config(options.model)
    stages = [
        Stage(m, {"model_cfg": complete_model_cfg(m, cfg), "preprocess_cfg": m.visual.preprocess_cfg}, tokenizer)
        for m in models
    ]
    images = torch.randn(options.batch_size, 3, *models[0].visual.image_size, device=device)
    texts = tokenizer(["a photo of a cat"] * options.batch_size).to(device)

    separate = [model.encode_image(images) for model in models] + [model.encode_text(texts) for model in models]
    fused = FusedCLIP(stages)
    collapsed = fused.collapse()
    compiled = torch.compile(fused.encode_image, fullgraph=True, backend=options.backend)
    disk, again = disk_ratio(fused)
    worst = 0.0
    for model in (fused, again.to(device)):
        shared = model.stage_embeddings(image=images) + model.stage_embeddings(text=texts)
        worst = max(worst, *((a - b).abs().max().item() for a, b in zip(shared, separate, strict=True)))
    del again

    image = measure(
        {
            "one": lambda: models[0].encode_image(images),
            "separate": lambda: torch.cat([model.encode_image(images) for model in models], dim=1),
            "fused": lambda: fused.encode_image(images, normalize=True),
            "compiled": lambda: compiled(images, normalize=True),
            "student": lambda: models[-1].encode_image(images, normalize=True),
            "collapsed": lambda: collapsed.encode_image(images, normalize=True),
        },
        options.rounds,
        device,
        options.progress,
    )
    differs = (compiled(images, normalize=True) - fused.encode_image(images, normalize=True)).abs().max().item()
    text = measure(
        {
            "one": lambda: models[0].encode_text(texts),
            "fused": lambda: fused.encode_text(texts),
            "student": lambda: models[-1].encode_text(texts, normalize=True),
        },
        max(options.rounds // 2, 1),
        device,
        options.progress,
    )
    return {
        "benchmark": "fused_inference",
        "stages": options.stages,
        "cost_vs_one_tower": ratio(image, "fused", "one"),
        "cost_vs_separate": ratio(image, "fused", "separate"),
        "separate_vs_one_tower": ratio(image, "separate", "one"),
        "compiled_cost_vs_one_tower": ratio(image, "compiled", "one"),
        "compiled_vs_fused": ratio(image, "compiled", "fused"),
        "compiled_max_abs_diff": differs,
        "collapsed_vs_one_tower": ratio(image, "collapsed", "one"),
        "collapsed_embedding_size": collapsed.visual.output_dim,
        "student_cost_vs_one_tower": ratio(image, "student", "one"),
        "student_text_cost_vs_one_tower": ratio(text, "student", "one"),
        "student_embedding_size": models[-1].visual.output_dim,
        "embedding_size": fused.visual.output_dim,
        "text_cost_vs_one_tower": ratio(text, "fused", "one"),
        "max_abs_diff": worst,
        "disk_ratio": disk,
        "blocks_run": fused.sharing["image"],
        "one_tower_ms": 1000 * statistics.median(image["one"]),
        "model": options.model,
        "own_blocks": options.own_blocks,
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "device": torch.cuda.get_device_name() if device != "cpu" else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the measurement."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fused_inference", description=__doc__)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--own-blocks", type=int, default=4, help="last image blocks in which stages differ")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5, help="a round runs every variant once")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backend", default="inductor", help="of torch.compile, which takes the image side whole")
    parser.add_argument("--json", action="store_true", help="one line of JSON on stdout, nothing else")
    options = parser.parse_args(arguments)
    options.progress = not options.json
    result = run(options)
    if options.device == "cpu" and torch.cuda.is_available():
        options.device = "cuda"
        result["gpu"] = run(options)
    if options.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:24} {value:.4g}" if isinstance(value, float) else f"{name:24} {value}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
