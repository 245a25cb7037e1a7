"""Killed anywhere and started again with the same command, a run ends with the same bits."""

import os
import shutil
import signal
import time
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

import mcl_clip
from tests.jobs import count_events, finish, patience, start, wait_for
from tests.tiny_runs import command, fingerprint, losses, metrics
from training import preemption
from training.main import main

LONG = os.environ.get("MCL_TEST_PROFILE") == "long"
KILLS, EACH, WORKERS = (216, 12, 2) if LONG else (6, 6, 0)  # in all, until a run may end, reader processes
SAVING = ("--mcl-save-steps", "3", "--mcl-keep-checkpoints", "1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of two stages that nothing stopped; its directory, results and number of events."""
    directory = tmp_path_factory.mktemp("whole")
    events = count_events(command(directory, "--mcl-stages", "2", *SAVING), directory / "log")
    return directory, fingerprint(directory), events


def same_run(whole, directory):
    """A command over the same tars (whose path is a part of the run) that writes to `directory`."""
    arguments = command(whole[0], "--mcl-stages", "2", *SAVING)
    arguments[arguments.index("--logs") + 1] = f"{directory}/runs"
    return arguments


def scores(directory):
    """Similarities of eight images and eight captions under the fused model."""
    model, _, tokenizer = mcl_clip.load(directory / "runs/run/fused")
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.get_logits(images, tokenizer([f"caption {number} of shard 1" for number in range(8)]))[0]


def steps_told(directory):
    """Rows of metrics of all stages so far."""
    return sum(file.read_text().count("\n") for file in directory.glob("runs/run/stage_*/metrics.jsonl"))


def assert_same(whole, directory):
    assert torch.equal(scores(directory), scores(whole[0]))
    assert fingerprint(directory) == whole[1]
    for stage in range(3):
        assert losses(directory, stage) == losses(whole[0], stage)


def phase(run):
    """What a run was making."""
    if not (run / "source/manifest.json").exists():
        return "index"
    for stage in range(3):
        if stage and not (run / f"stage_{stage - 1}/clusters/clusters.json").exists():
            return "clusters"
        if stage and not (run / f"stage_{stage}/buckets/manifest.json").exists():
            return "buckets"
        if not (run / f"stage_{stage}/model/open_clip_config.json").exists():
            return "training"
    return "fused model"


def test_killed_at_random_points_a_run_ends_with_the_same_bits(whole, tmp_path):
    events = whole[2]
    assert events > 200
    log, kills, runs = tmp_path / "log", Counter(), 0
    run = tmp_path / "killed/runs/run"

    def kill_when(condition, arguments, delay):
        process = start(arguments, log)
        wait_for(lambda: condition() or not process.is_alive())
        time.sleep(delay)
        process.kill()
        return process

    # Runs that are killed again and again until one goes through: at an event on the disk, some steps on, in a phase
    # that is soon over.
    while kills.total() < KILLS:
        draws = np.random.Generator(np.random.Philox((runs, events)))
        for kill in range(EACH):
            arguments = [*same_run(whole, tmp_path / "killed"), "--workers", str(WORKERS * (kill % 2))]
            if kill % 3 == 0:
                process = start(arguments, log, die_at=int(draws.integers(1, events * 3 // EACH)))
            elif kill % 3 == 1:
                far = steps_told(tmp_path / "killed") + draws.integers(1, 10)
                condition = partial(lambda far: steps_told(tmp_path / "killed") >= far, far)
                process = kill_when(condition, arguments, draws.uniform(0, 0.05))
            else:
                ahead = ("index",) if not run.exists() else ("clusters", "buckets")
                ahead = ("fused model",) if (run / "stage_2/buckets/manifest.json").exists() else ahead
                short = ahead[draws.integers(len(ahead))]
                condition = partial(lambda short: run.exists() and phase(run) == short, short)
                process = kill_when(condition, arguments, draws.uniform(0, 0.02))
            if finish(process) == 0:
                break
            assert process.exitcode == -signal.SIGKILL, log.read_text()
            kills[phase(run)] += 1
        assert finish(start(same_run(whole, tmp_path / "killed"), log)) == 0, log.read_text()
        assert_same(whole, tmp_path / "killed")
        assert not list(run.rglob(".*.tmp"))
        shutil.rmtree(tmp_path / "killed")
        runs += 1
        print(f"{kills.total()} kills, {runs} runs with the same bits, {dict(kills)}", flush=True)  # pytest -s shows it
    assert not LONG or len(kills) == 5


def test_killed_in_a_step_and_in_a_save(whole, tmp_path):
    def killed_when(condition):
        process = start(same_run(whole, tmp_path), tmp_path / "log")
        wait_for(lambda: condition() or not process.is_alive())
        process.kill()
        finish(process)

    rows = tmp_path / "runs/run/stage_1/metrics.jsonl"
    killed_when(lambda: rows.exists() and rows.read_text().count("\n") > 4)
    killed_when(lambda: any((tmp_path / "runs/run").glob("stage_*/checkpoints/.*.tmp")))
    assert finish(start(same_run(whole, tmp_path), tmp_path / "log")) == 0, (tmp_path / "log").read_text()
    assert_same(whole, tmp_path)


def test_two_processes_do_not_train_in_one_directory(whole, tmp_path, capfd):
    process = start(same_run(whole, tmp_path), tmp_path / "log")
    wait_for(lambda: (tmp_path / "runs/run/stage_0/metrics.jsonl").exists() or not process.is_alive())
    assert main(same_run(whole, tmp_path)) == 2
    assert "another process is training in" in capfd.readouterr().err
    process.kill()
    finish(process)
    assert main(same_run(whole, tmp_path)) == 0
    assert_same(whole, tmp_path)


def test_a_finished_run_is_not_touched_again(whole):
    before = {path: path.stat().st_mtime_ns for path in (whole[0] / "runs").rglob("*.safetensors")}
    assert main(command(whole[0], "--mcl-stages", "2", *SAVING)) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert fingerprint(whole[0]) == whole[1]


def in_a_group_of_its_own(rank):
    os.setsid()


def test_sigterm_saves_and_ends_within_30_seconds_with_its_own_status(whole, tmp_path):
    arguments = [*same_run(whole, tmp_path), "--save-frequency", "0", "--mcl-save-steps", "0", "--workers", "2"]
    process = start(arguments, tmp_path / "log", before=in_a_group_of_its_own)
    rows = tmp_path / "runs/run/stage_0/metrics.jsonl"
    wait_for(lambda: rows.exists() and rows.read_text().count("\n") > 4)
    begun = time.monotonic()
    os.killpg(process.pid, signal.SIGTERM)  # as torchrun and SLURM do: its readers hear it too
    assert finish(process) == preemption.STATUS, (tmp_path / "log").read_text()
    assert time.monotonic() - begun < patience(30)
    if not (tmp_path / "runs/run/stage_0/model").exists():  # the signal may come after the last step
        assert list((tmp_path / "runs/run/stage_0/checkpoints").glob("step_*.pt"))
    assert "the same command goes on" in (tmp_path / "log").read_text()
    assert main(same_run(whole, tmp_path)) == 0
    assert_same(whole, tmp_path)
    assert len(metrics(tmp_path)) == len(metrics(whole[0]))
