"""A rank whose network file system shows an older listing takes the same steps as the first one."""

import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from mcl_clip.errors import UserError
from mcl_clip.world import appears
from tests.jobs import run_job
from tests.tiny_runs import command, fingerprint, metrics
from training.step import TrainingStep

LATE = {"manifest.json", "clusters.json", "centroids.safetensors", "open_clip_config.json", "step_00000006.pt"}


def hide(rank):
    """Rank 1 sees each file of `LATE` in the run directory at its third look; every rank prints its steps."""
    looks: Counter[Path] = Counter()
    exists, iterdir, call = Path.exists, Path.iterdir, TrainingStep.__call__

    def is_hidden(path):
        looks[path] += path.name in LATE and "runs" in path.parts
        return 0 < looks[path] <= 2

    def told(self, step, batches):
        os.write(1, f"rank {rank} takes step {step}\n".encode())  # in one piece: all ranks write to one log
        return call(self, step, batches)

    TrainingStep.__call__ = told
    if rank == 1:
        Path.exists = lambda self, **options: not is_hidden(self) and exists(self, **options)
        Path.iterdir = lambda self: (path for path in iterdir(self) if not is_hidden(path))


def test_all_ranks_go_on_where_the_first_one_does(tmp_path):
    arguments = command(
        tmp_path, "--mcl-stages", "1", "--batch-size", "8", "--mcl-save-steps", "3", "--mcl-keep-checkpoints", "9"
    )
    assert run_job(arguments, tmp_path / "log", 2) == [0, 0], (tmp_path / "log").read_text()
    before, run = fingerprint(tmp_path), tmp_path / "runs/run"
    for directory in ("stage_1/model", "fused"):
        shutil.rmtree(run / directory)
    for checkpoint in sorted(run.glob("stage_1/checkpoints/*"))[2:]:
        checkpoint.unlink()
    assert run_job(arguments, tmp_path / "again", 2, before=hide) == [0, 0], (tmp_path / "again").read_text()
    told = (tmp_path / "again").read_text()  # a line may begin with another rank's progress bar
    steps = [[int(step) for step in re.findall(rf"rank {rank} takes step (\d+)\n", told)] for rank in range(2)]
    assert steps[0] == steps[1] == list(range(6, len(metrics(tmp_path, 1))))
    assert fingerprint(tmp_path) == before


def test_a_disk_that_is_not_shared_is_said(tmp_path):
    (tmp_path / "here").touch()
    assert appears(tmp_path / "here") == tmp_path / "here"
    with pytest.raises(UserError, match="all machines must share its disk"):
        appears(tmp_path / "elsewhere", seconds=0.3)
