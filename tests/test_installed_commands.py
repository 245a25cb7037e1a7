"""The installed commands find this package although the user's own `training/` and `eval/` lie where they are run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tars import image_bytes
from tests.tiny_runs import command, metrics

SCRIPTS = Path(sys.executable).parent


@pytest.fixture
def place(tmp_path):
    """A user's project, in which folders have the names of ours."""
    for name in ("training", "eval"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('not the one that was asked for')")
    return tmp_path


def run(place, *words):
    ended = subprocess.run(list(map(str, words)), cwd=place, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended


def test_under_torchrun_and_alone(place):
    flags = command(place, "--epochs", "1", "--batch-size", "8", "--mcl-stages", "1", shards=1)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run(place, *torchrun, "--no-python", SCRIPTS / "mcl-train", "--", *flags)
    assert len(metrics(place, 1)) >= 2
    for name in ("cat", "dog"):
        (place / "animals" / name).mkdir(parents=True)
        (place / "animals" / name / "0.jpg").write_bytes(image_bytes(len(name)))
    scored = ["--dataset", "animals", "--templates", "simple", "--output", "scores.json"]
    run(place, SCRIPTS / "mcl-zero-shot", "--model", "runs/run/fused", *scored)
    assert "fused" in json.dumps(json.loads((place / "scores.json").read_text()))
