"""What is lost on the way is told, borne or masked, and what ends a run is one line."""

import json
import multiprocessing
import os
import signal

import pytest
import torch

from mcl_clip.clustering.encoder import AUTOCAST
from mcl_clip.openclip.precision import get_autocast, get_input_dtype
from tests.jobs import run_job
from tests.tars import image_bytes, write_tar
from tests.tiny_runs import command, losses
from training.arrows.clusters import embedding_precision
from training.main import main
from training.step import TrainingStep


def test_what_is_left_out_is_told_in_the_log_and_on_disk(tmp_path):
    arguments = command(tmp_path, "--epochs", "1", "--mcl-stages", "1", "--mcl-leftovers", "drop", samples=33)
    write_tar(tmp_path / "tars/00003.tar", [(f"{n}.jpg", image_bytes(n)) for n in range(5)])
    broken = [("x.jpg", b"not an image"), ("x.txt", b"a caption")]
    write_tar(tmp_path / "tars/00004.tar", broken)
    assert main(arguments) == 0
    told = (tmp_path / "runs/run/out.log").read_text()
    assert "5 without a caption (00003/0, 00003/1" in told and "1 shards without a usable sample (00003)" in told
    assert (
        "00004/x cannot be read" in told and "1 unreadable, replaced by others of their pseudo-label (00004/x)" in told
    )
    record = json.loads((tmp_path / "runs/run/stage_1/left_out.json").read_text())
    (reason,) = (reason for reason in record["plan"] if "--mcl-leftovers drop" in reason)
    count = record["plan"][reason]["count"]
    assert 0 < count < 32 and f"of 99 samples, in each pass: {count} ({count / 99:.1%}) dropped" in told
    clusters = json.loads((tmp_path / "runs/run/stage_0/clusters/clusters.json").read_text())
    assert clusters["failed"]["count"] == 6 and "6 without image or caption, or that do not decode" in told
    buckets = json.loads((tmp_path / "runs/run/stage_1/buckets/manifest.json").read_text())
    assert buckets["left_out"]["without a label"]["count"] == 6


def test_rows_without_a_sample_are_masked_however_a_batch_is_split(tmp_path):
    """A label of the user's that fills its batches: nothing outside can take the place of what cannot be read."""
    arguments = command(tmp_path, "--epochs", "2", shards=1, samples=15)
    broken = [("x.jpg", b"not an image"), ("x.txt", b"a caption")]
    write_tar(tmp_path / "tars/00001.tar", broken)
    assert main(arguments) == 0
    split = [*arguments, "--batch-size", "4", "--accum-freq", "4", "--name", "split"]
    assert main(split) == 0
    rows = [json.loads(row)["loss"] for row in (tmp_path / "runs/split/stage_0/metrics.jsonl").open()]
    assert len(rows) == 2 and rows == pytest.approx(losses(tmp_path), rel=1e-5)
    record = json.loads((tmp_path / "runs/run/stage_0/left_out.json").read_text())["reading"]
    assert record == {"unreadable, masked out of the loss": {"count": 1, "first": ["00001/x"]}}
    log = tmp_path / "log"
    ranks = [*arguments, "--batch-size", "8", "--gather-with-grad", "--name", "ranks"]
    assert run_job(ranks, log, 2) == [0, 0], log.read_text()
    rows = [json.loads(row)["loss"] for row in (tmp_path / "runs/ranks/stage_0/metrics.jsonl").open()]
    assert rows == pytest.approx(losses(tmp_path), rel=1e-4)
    without = [*arguments, "--train-data", f"{tmp_path}/tars/00000.tar", "--batch-size", "15", "--name", "without"]
    assert main(without) == 0
    rows = [json.loads(row)["loss"] for row in (tmp_path / "runs/without/stage_0/metrics.jsonl").open()]
    assert rows == pytest.approx(losses(tmp_path), rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "amp", "amp_bf16", "bf16", "fp16", "pure_bf16"])
def test_a_stage_is_embedded_in_the_precision_that_it_is_trained_in(precision):
    cpu = torch.device("cpu")
    with get_autocast(precision, device_type="cpu")():
        product = torch.ones(2, 2, dtype=get_input_dtype(precision)) @ torch.ones(
            2, 2, dtype=get_input_dtype(precision)
        )
    assert AUTOCAST[embedding_precision(precision, cpu)] == product.dtype


def kill_readers_at_step_2(rank):
    step = TrainingStep.__call__

    def killing(self, number, batches):
        if number == 2:
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGKILL)
        return step(self, number, batches)

    TrainingStep.__call__ = killing


def test_a_killed_reader_is_one_line(tmp_path):
    log = tmp_path / "log"
    assert run_job([*command(tmp_path), "--workers", "1"], log, before=kill_readers_at_step_2) == [2]
    told = log.read_text()
    assert "error: a reader process ended" in told and "Traceback" not in told
