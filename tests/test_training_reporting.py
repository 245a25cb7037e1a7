"""Where progress is told: JSON lines that a resume cuts back, TensorBoard, Weights & Biases."""

import sys
import types

import pytest

from mcl_clip.errors import UserError
from tests.test_recipe import make
from training.reporting import MetricsFile, Trackers, destinations


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
        trackers.begin(0, start)
        for step in range(start, 6):
            trackers.write({"loss": float(step + start), "stage": "0"}, step)
        trackers.begin(1, 0)
        trackers.write({"loss": 9.0}, 0, prefix="val/")
        trackers.close()
    events = EventAccumulator(str(tmp_path / "run/tensorboard/stage_0")).Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (0, 0.0), (1, 1.0), (2, 2.0), (3, 6.0), (4, 7.0), (5, 8.0),
    ]  # fmt: skip
    other = EventAccumulator(str(tmp_path / "run/tensorboard/stage_1")).Reload()
    assert other.Tags()["scalars"] == ["val/loss"]


def test_weights_and_biases_resumes_the_run_of_that_name(tmp_path, monkeypatch):
    told = []
    fake = types.ModuleType("wandb")
    fake.init = lambda **settings: told.append(settings)
    fake.define_metric = lambda name, step_metric: told.append((name, step_metric))
    fake.log = told.append
    fake.finish = lambda: told.append("finished")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    recipe = make("--report-to", "wandb", "--logs", str(tmp_path), "--wandb-project-name", "p", "--wandb-notes", "n")
    trackers = Trackers(recipe, {"seed": 0})
    trackers.begin(2, 5)
    trackers.write({"loss": 1.5}, 5)
    trackers.close()
    settings = told[0]
    assert (settings["project"], settings["name"], settings["id"]) == ("p", "run", "run")
    assert settings["resume"] == "allow" and settings["config"] == {"seed": 0}
    assert told[1:] == [("stage_2/*", "stage_2/step"), {"stage_2/loss": 1.5, "stage_2/step": 5}, "finished"]
    Trackers(recipe, {}, silent=True).write({"loss": 1.0}, 0)
    assert len(told) == 4


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="--report-to wandb: it is not installed"):
        Trackers(make("--report-to", "wandb", "--logs", str(tmp_path)), {})
