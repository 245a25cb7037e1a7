"""`python -m demo`: from nothing to a scored multi-stage model and its report, on a CPU."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import mcl_clip
from demo.data import DEFAULT, TINY, Size, generate
from demo.features import FEATURES
from eval import mmvp, report, zero_shot
from eval.data.classification import open_set
from eval.data.mmvp import read_pairs
from eval.models import ScoredModel
from eval.scores import read_scores, table, write_scores
from mcl_clip.errors import UserError, exit_on_user_error

FLAGS = {
    "model": "mcl-tiny-conv",
    "epochs": 8,
    "batch-size": 256,
    "lr": 1e-3,
    "wd": 0.1,
    "beta2": 0.98,
    "warmup": 20,
    "workers": 1,
    "precision": "fp32",
    "mcl-stages": 2,
    "mcl-clusters": 16,
    "mcl-fusion": "fitted",
    "mcl-fit-share": 0.143,
}
TINY_FLAGS = FLAGS | {"epochs": 1, "batch-size": 64, "mcl-clusters": 3, "workers": 0}


def training_command(data: Path, run: Path, size: Size, seed: int, device: str) -> list[str]:
    """The command that trains the demo's stages: nothing but documented flags."""
    flags = TINY_FLAGS if size == TINY else FLAGS
    shards = -(-size.images // size.shard)
    values = {
        "train-data": f"{data}/train/{{00000..{shards - 1:05d}}}.tar",
        **flags,
        "seed": seed,
        "device": device,
        "logs": str(run.parent),
        "name": run.name,
    }
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    # Crops of 32 pixels are resampled, and textures of two pixels would not survive that.
    whole = ["--aug-cfg", "scale=(1.0,1.0)"]
    return [sys.executable, "-m", "training.main", *words, *whole]


def score(run: Path, data: Path, device: str, progress: bool) -> None:
    """Score every stage and the fused model on the pairs and on each feature's set; what is scored already stays."""
    fused = run / "fused"
    scores = {"mmvp": run / "scores" / "mmvp.json"} | {
        feature.name: run / "scores" / f"zero_shot_{feature.name}.json" for feature in FEATURES
    }
    model, preprocess, tokenizer = mcl_clip.load(fused, device)
    scored = ScoredModel(model, preprocess, tokenizer, name=str(fused))
    current = scored.record()["model_hash"]
    for name, path in scores.items():
        if path.exists() and read_scores(path)[0]["model_hash"] == current:
            continue
        print(f"scoring {name}", flush=True)
        if name == "mmvp":
            results = mmvp.evaluate(scored, read_pairs(data / "mmvp"), dataset="demo_pairs", progress=progress)
        else:
            results = zero_shot.evaluate(scored, open_set(str(data / "zero_shot" / name)), progress=progress)
        write_scores(path, results)


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="Generate captioned images, train stage 0 and two stages on negatives that look alike to the ones "
        "before, fuse all three, score each, and write a report. A finished part is reused when run again.",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="the run directory (default runs/demo)")
    parser.add_argument(
        "--size", choices=("default", "tiny"), default="default", help="tiny runs in seconds, learns nothing"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the data and the training (default 0)")
    parser.add_argument("--device", default="cpu", help="of training and scoring: cpu, cuda (default %(default)s)")
    args = parser.parse_args(argv)
    start, size, run = time.time(), TINY if args.size == "tiny" else DEFAULT, args.output
    progress = sys.stderr.isatty()
    data = generate(run.with_name(f"{run.name}-data"), size, args.seed, progress)
    command = training_command(data, run, size, args.seed, args.device)
    print(
        "$ " + " ".join(["python", *(f"'{word}'" if set("{(") & set(word) else word for word in command[1:])]),
        flush=True,
    )
    finished = subprocess.run(command, env=os.environ | {"PYTHONUNBUFFERED": "1"})
    if finished.returncode:
        raise UserError(f"training ended with status {finished.returncode}; its own message stands above")
    score(run, data, args.device, progress)
    page = report.write_report(run)
    results = read_scores(run / "scores" / "mmvp.json")
    columns = ["pair_accuracy", *(f"pair_accuracy/{feature.pattern}" for feature in FEATURES)]
    print("\npair accuracy in percent; chance is 25\n")
    print(table(results, columns))
    print(f"\nreport: {page}   ({time.time() - start:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
