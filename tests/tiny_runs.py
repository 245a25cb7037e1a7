"""Whole training runs of seconds: a model directory without weights, tars, and the command line for them."""

import hashlib
import json
from pathlib import Path

from safetensors.torch import save_file

from mcl_clip.openclip.models import create_model
from tests.tars import write_shards

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VISION = {
    "vit": {"image_size": 16, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16},
    "timm": {"image_size": 32, "timm_model_name": "mcl_tiny_conv", "timm_pool": "", "timm_proj": "linear"},
}


def model_directory(directory: Path, kind: str = "vit", **overrides) -> str:
    """`local-dir:` name of an architecture of a few thousand parameters (and CLIP's vocabulary), without weights."""
    config = {"embed_dim": 16, "vision_cfg": VISION[kind], "text_cfg": TEXT} | overrides
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}})
    )
    return f"local-dir:{directory}"


def draw_weights(directory: Path) -> None:
    """Put weights into the model directory of `command`'s run."""
    model = create_model(f"local-dir:{directory / 'architecture'}")
    save_file(model.state_dict(), directory / "architecture/open_clip_model.safetensors")


def command(directory: Path, *arguments: str, kind: str = "vit", shards: int = 3, samples: int = 40) -> list[str]:
    """Flags of a run over fresh tars in `directory`: runs/run, 16 samples a batch, two clusters, two epochs a stage."""
    if not (directory / "tars").exists():
        write_shards(directory / "tars", shards, samples, size=24)
    return [
        *("--train-data", f"{directory}/tars", "--logs", f"{directory}/runs", "--name", "run"),
        *("--model", model_directory(directory / "architecture", kind), "--mcl-base", "train"),
        *("--device", "cpu", "--precision", "fp32", "--workers", "0", "--batch-size", "16", "--epochs", "2"),
        *("--lr", "1e-3", "--beta2", "0.98", "--eps", "1e-6", "--warmup", "4", "--log-every-n-steps", "1"),
        *("--mcl-clusters", "2", "--mcl-min-segment", "4"),
        *arguments,
    ]


def metrics(directory: Path, stage: int = 0) -> list[dict]:
    """Rows of a stage's metrics.jsonl."""
    return [json.loads(line) for line in (directory / f"runs/run/stage_{stage}/metrics.jsonl").open()]


def losses(directory: Path, stage: int = 0) -> list[float]:
    """Loss of every step of a stage."""
    rows = metrics(directory, stage)
    assert [row["step"] for row in rows] == list(range(len(rows)))
    return [row["loss"] for row in rows]


def fingerprint(directory: Path) -> dict[str, str]:
    """SHA-256 of every file that a run's results consist of: weights, clusters, buckets."""
    run = directory / "runs/run"
    kinds = ("*.safetensors", "*.tar", "manifest.json", "clusters.json", "open_clip_config.json")
    files = sorted(file for kind in kinds for file in run.rglob(kind))
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
