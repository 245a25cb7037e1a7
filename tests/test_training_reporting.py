"""Where progress is told: JSON lines that a resume cuts back, TensorBoard, Weights & Biases."""

import sys
import types

import pytest
import torch

from mcl_clip.errors import UserError
from mcl_clip.loading.loader import MicroBatch
from mcl_clip.plan.segments import SegmentLayout
from tests.test_recipe import make
from training.ranks import Ranks
from training.reporting import MetricsFile, Trackers, destinations
from training.step import StepResult
from training.window import Window, _memory


def test_a_resumed_stage_goes_on_where_its_metrics_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, lambda row: True)
    for step in range(5):
        file.write({"step": step})
    with open(path, "a") as killed:
        killed.write('{"step": 5, "lo')
    again = MetricsFile(path, lambda row: row["step"] < 3)
    again.write({"step": 3})
    assert [row["step"] for row in again.rows()] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("", set()),
        ("none", set()),
        ("wandb", {"wandb"}),
        ("tensorboard, wandb", {"wandb", "tensorboard"}),
        ("all", {"wandb", "tensorboard"}),
    ],
)
def test_report_to_names_what_is_known(given, wanted):
    assert destinations(given) == wanted


def test_report_to_refuses_what_is_not_known():
    with pytest.raises(UserError, match="--report-to tensorbord"):
        destinations("tensorbord")


def test_tensorboard_has_a_run_of_each_stage_without_what_a_kill_undid(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = make("--report-to", "tensorboard", "--logs", str(tmp_path))
    for start in (0, 3):
        trackers = Trackers(recipe, {})
        trackers.begin("stage_0", start)
        for step in range(start, 6):
            trackers.write({"loss": float(step + start), "stage": "0"}, step)
        trackers.begin("stage_1", 0)
        trackers.write({"loss": 9.0}, 0, prefix="val/")
        trackers.close()
    events = EventAccumulator(str(tmp_path / "run/tensorboard/stage_0")).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (0, 0.0), (1, 1.0), (2, 2.0), (3, 6.0), (4, 7.0), (5, 8.0),
    ]  # fmt: skip
    other = EventAccumulator(str(tmp_path / "run/tensorboard/stage_1")).Reload()
    assert other.Tags()["scalars"] == ["val/loss"]


def test_weights_and_biases_resumes_the_run_of_this_directory(tmp_path, monkeypatch):
    told = []
    fake = types.ModuleType("wandb")
    fake.init = lambda **settings: told.append(settings)
    fake.define_metric = lambda name, step_metric: told.append((name, step_metric))
    fake.log = told.append
    fake.finish = lambda: told.append("finished")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    recipe = make("--report-to", "wandb", "--logs", str(tmp_path), "--wandb-project-name", "p", "--wandb-notes", "n")
    trackers = Trackers(recipe, {"seed": 0})
    trackers.begin("stage_2", 5)
    trackers.write({"loss": 1.5}, 5)
    trackers.close()
    settings = told[0]
    assert (settings["project"], settings["name"]) == ("p", "run")
    assert settings["resume"] == "allow" and settings["config"] == {"seed": 0}
    assert told[1:] == [("stage_2/*", "stage_2/step"), {"stage_2/loss": 1.5, "stage_2/step": 5}, "finished"]
    Trackers(recipe, {}, silent=True).write({"loss": 1.0}, 0)
    assert len(told) == 4
    elsewhere = make("--report-to", "wandb", "--logs", str(tmp_path / "elsewhere"))
    for again in (recipe, elsewhere):
        Trackers(again, {})
    assert told[4]["id"] == settings["id"] != told[5]["id"]


def test_a_line_tells_rate_wait_and_time_left_without_the_time_of_a_validation(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    window = Window(make("--batch-size", "4"), stage=0, steps_per_epoch=4, total=8, ranks=Ranks(), first_step=0)
    window.wait_begins()
    now = 0.5
    window.wait_ends()
    window.add([MicroBatch(torch.zeros(4, 1), torch.zeros(4, 2), ["a"] * 4, SegmentLayout.one(4), 0, 0)])
    now = 2.0
    with window.paused():
        now = 100.0
    row = window.close(0, 0, [1.0], StepResult(torch.tensor(1.0), {"logit_scale": torch.tensor(14.3)}, 0.1))
    assert (row["samples_per_s"], row["data_wait_share"], row["seconds_left"]) == (2, 0.25, 14)
    line = window.line(row)
    for part in (
        "loss 1.0",
        "negatives 3.0",
        "2 samples/s",
        "wait 25%",
        "lr 0.1",
        "scale 14.30",
        "GiB",
        "left 0:00:14",
    ):
        assert part in line


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="--report-to wandb: it is not installed"):
        Trackers(make("--report-to", "wandb", "--logs", str(tmp_path)), {})


@pytest.mark.parametrize(("platform", "reported"), [("linux", 3 * 2**20), ("darwin", 3 * 2**30)])
def test_memory_is_told_in_gib_whatever_the_unit_of_the_system(monkeypatch, platform, reported):
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr("resource.getrusage", lambda _: types.SimpleNamespace(ru_maxrss=reported))
    assert _memory(torch.device("cpu")) == 3
