"""Jobs of several ranks: the same losses under any number of them, and no rank left waiting."""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.jobs import finish, patience, run_job, start, wait_for
from tests.tiny_runs import command, fingerprint, losses, metrics
from training import health, preemption
from training.arrows import buckets
from training.step import TrainingStep


def split(directory, *arguments, batch_size, name="run"):
    """The command of a rank with its share of a global batch of 24."""
    flags = command(directory, "--gather-with-grad", "--mcl-stages", "1", "--name", name, *arguments)
    flags[flags.index("--batch-size") + 1] = str(batch_size)
    return flags


def under_slurm(rank):
    """The place of a rank as srun tells it, which says nothing of an address or a port."""
    for ours, theirs in (("RANK", "PROCID"), ("LOCAL_RANK", "LOCALID"), ("WORLD_SIZE", "STEP_NUM_TASKS")):
        os.environ[f"SLURM_{theirs}"] = os.environ.pop(ours)
    os.environ |= {"SLURM_JOB_ID": os.environ.pop("MASTER_PORT"), "SLURM_STEP_ID": "0"}
    os.environ |= {"SLURM_STEP_NODELIST": os.environ.pop("MASTER_ADDR")}


@pytest.mark.parametrize(
    ("flags", "launcher"), [(["--local-loss"], None), (["--siglip"], under_slurm)], ids=["local-loss", "siglip, SLURM"]
)
def test_the_number_of_ranks_does_not_change_the_losses(tmp_path, flags, launcher):
    log = tmp_path / "log"
    assert run_job(split(tmp_path, "--epochs", "4", *flags, batch_size=24), log) == [0], log.read_text()
    arguments = split(tmp_path, "--epochs", "4", "--accum-freq", "2", *flags, batch_size=6, name="two")
    assert run_job(arguments, log, 2, before=launcher) == [0, 0], log.read_text()
    for stage in (0, 1):
        rows = (tmp_path / f"runs/two/stage_{stage}/metrics.jsonl").read_text().splitlines()
        two = [json.loads(row)["loss"] for row in rows]
        assert len(two) == 20
        assert two == pytest.approx(losses(tmp_path, stage), rel=1e-4)
        assert two[-1] < two[0]


def test_three_ranks_ended_by_sigterm_go_on_with_the_same_bits(tmp_path):
    whole, stopped, log = tmp_path / "whole", tmp_path / "stopped", tmp_path / "log"
    arguments = split(whole, "--save-frequency", "0", batch_size=8)
    assert run_job(arguments, log, 3) == [0, 0, 0], log.read_text()
    arguments[arguments.index("--logs") + 1] = f"{stopped}/runs"
    rows = stopped / "runs/run/stage_1/metrics.jsonl"
    port = 20000 + os.getpid() % 20000
    ranks = [start(arguments, log, rank, 3, port) for rank in range(3)]
    wait_for(lambda: rows.exists() and rows.read_text().count("\n") >= 3)
    begun = time.monotonic()
    for rank in ranks:
        rank.terminate()
    statuses = [finish(rank) for rank in ranks]
    assert statuses == [preemption.STATUS] * 3 and time.monotonic() - begun < patience(30), log.read_text()
    assert log.read_text().count("ended by a signal") == 1
    assert run_job(arguments, log, 3) == [0, 0, 0], log.read_text()
    mine = {name: value for name, value in fingerprint(stopped).items() if not name.startswith("fused/stages")}
    assert mine.items() <= fingerprint(whole).items()
    assert losses(stopped, 1) == losses(whole, 1)


@pytest.mark.parametrize("flags", [["--lock-text"], ["--mcl-clusters", "121"]], ids=["every rank", "the first"])
def test_a_user_error_is_said_once_and_ends_all_ranks(tmp_path, flags):
    log = tmp_path / "log"
    assert run_job(split(tmp_path, *flags, batch_size=12), log, 2) == [2, 2], log.read_text()
    assert log.read_text().count("error: ") == 1 and "Traceback" not in log.read_text()
    run = tmp_path / "runs/run"
    assert not run.exists() or [path.name for path in run.iterdir()] == ["source"]  # an index is worth keeping


def fail_in_a_step(rank):
    """Rank 1's fourth step raises, as a bug would."""
    at_step_3(rank, lambda result: {}["a bug"])


def lose_a_loss(rank):
    """Rank 1's part of the loss of its fourth step is no number."""
    at_step_3(rank, lambda result: replace(result, loss=result.loss * math.inf))


def at_step_3(rank, change):
    original = TrainingStep.__call__

    def call(self, step, batches):
        result = original(self, step, batches)
        return change(result) if step == 3 and rank == 1 else result

    TrainingStep.__call__ = call


def fail_between_steps(rank):
    """Rank 1 fails while the first one, in a phase without collectives, waits for it."""

    def fail(*_, **__):
        raise KeyError("a bug")

    if rank == 1:
        buckets.write_buckets = fail


@pytest.mark.parametrize("before", [fail_in_a_step, fail_between_steps])
def test_a_rank_that_fails_tells_why_and_no_other_waits(tmp_path, before):
    log = tmp_path / "log"
    begun = time.monotonic()
    assert run_job(split(tmp_path, batch_size=12), log, 2, before=before) == [1, 1]
    assert time.monotonic() - begun < patience(60)
    shown = log.read_text()
    assert shown.count("Traceback") == 1 and "KeyError: 'a bug'" in shown
    assert "rank 0 ends: rank 1 failed" in shown


def test_a_loss_that_is_no_number_on_one_rank_ends_all_with_its_step_and_keys(tmp_path):
    log = tmp_path / "log"
    arguments = split(tmp_path, "--local-loss", batch_size=12)
    assert run_job(arguments, log, 2, before=lose_a_loss) == [health.STATUS] * 2, log.read_text()
    shown = log.read_text()
    assert "Traceback" not in shown and shown.count("error: ") == 1 and "step 3: the loss is inf" in shown
    keys = json.loads((tmp_path / "runs/run/stage_0/non_finite_rank_1.json").read_text())["keys"]
    assert len(keys) == 12


def test_under_torchrun_a_rank_that_dies_ends_the_job_and_the_same_command_goes_on(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = [*torchrun, "-m", "training.main", "--", *split(tmp_path, "--mcl-save-steps", "2", batch_size=12)]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]),
    }
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment)
    rows = tmp_path / "runs/run/stage_0/metrics.jsonl"
    wait_for(lambda: (rows.exists() and rows.read_text().count("\n") >= 3) or process.poll() is not None)
    assert process.poll() is None, process.stderr.read()
    os.kill(_rank_of(process.pid, 1), 9)
    begun = time.monotonic()
    _, shown = process.communicate(timeout=120)
    assert process.returncode != 0 and time.monotonic() - begun < 60
    assert "Signal 9" in shown and "rank" in shown
    subprocess.run(arguments, check=True, env=environment, capture_output=True)
    assert len(metrics(tmp_path, 1)) == 10 and (tmp_path / "runs/run/fused/mcl_config.json").exists()


def _rank_of(parent: int, rank: int) -> int:
    """Process of a rank below torchrun's, by its environment."""
    for task in Path(f"/proc/{parent}/task").iterdir():
        for child in (task / "children").read_text().split():
            if f"\0RANK={rank}\0".encode() in b"\0" + Path(f"/proc/{child}/environ").read_bytes():
                return int(child)
    raise AssertionError(f"torchrun has no rank {rank}")
