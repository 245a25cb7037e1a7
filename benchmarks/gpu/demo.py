"""The demo on a device: that it runs, how long it takes, and the mean pair accuracy of its fused model."""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path

from demo.__main__ import main as run_demo
from eval.scores import read_scores


def main(arguments: list[str] | None = None) -> int:
    """Print seconds and scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", default="default")
    options = parser.parse_args(arguments)
    run, begun = options.folder / "demo", time.perf_counter()
    with contextlib.redirect_stdout(sys.stderr):
        status = run_demo(["--output", str(run), "--device", options.device, "--size", options.size])
    rows = read_scores(run / "scores" / "mmvp.json")
    scores = {Path(row["model"]).name: round(100 * row["metrics"]["pair_accuracy"], 2) for row in rows}
    print(json.dumps({"demo_seconds": round(time.perf_counter() - begun, 1), "pair_accuracy": scores}))
    return status


if __name__ == "__main__":
    raise SystemExit(main())
