"""mcl-eval: each single command's scores from one load, on one rank and several, and what fails loses nothing else."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from eval import main as command
from eval import mmvp, zero_shot
from eval.all_ranks import on_all_ranks
from eval.data.classification import open_set
from eval.data.limit import some, some_images, spread
from eval.report import write_report
from eval.suite import Entry, from_file, from_words, plan
from mcl_clip.errors import UserError
from mcl_clip.models.stage_model import save_stage_model
from tests.distributed import run_ranks
from tests.jobs import run_job
from tests.test_image_model import PREPROCESS, configuration, image_model
from tests.test_mmvp import write_questions, write_set
from tests.test_retrieval import coco, image_folder
from tests.test_sugarcrepe import write_category
from tests.test_winoground import table
from tests.test_zero_shot import class_folders
from tests.tiny_models import TINY, tiny_model


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Two stages and two sets: s0, s1, animals, pairs."""
    root = tmp_path_factory.mktemp("place")
    for seed in range(2):
        built = tiny_model("vit", seed)
        save_stage_model(built, root / f"s{seed}", model_cfg=TINY["vit"], preprocess_cfg=built.visual.preprocess_cfg)
    class_folders(root / "animals", per_class=4)
    (root / "pairs").mkdir()
    write_questions(root / "pairs", write_set(root / "pairs"))
    return root


def test_words_and_mappings_are_the_same_suite(tmp_path) -> None:
    words = ["mmvp:sets/pairs:prompt=,zero-shot:a/b:split=val:confusion=true", "linear-probe:c:seed=1:name=probe"]
    listed = [
        {"mmvp": "sets/pairs", "prompt": ""},
        {"zero-shot": "a/b", "split": "val", "confusion": True},
        {"linear-probe": "c", "seed": 1, "name": "probe"},
    ]
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump({"tasks": [*listed[:2], words[1]]}))
    (tmp_path / "mappings.yaml").write_text(yaml.safe_dump({"tasks": listed}))
    suites = [from_words(words), from_file(str(tmp_path / "suite.yaml")), from_file(str(tmp_path / "mappings.yaml"))]
    planned = [plan(entries, batch_size=3, limit=None) for entries in suites]
    assert planned[0] == planned[1] == planned[2]
    pairs, classes, probe = planned[0]
    assert [plan([each])[0].name for each in from_words(["mmvp:MMVP_VLM", "mmvp:a/mmvp", "sugarcrepe"])] == [
        "MMVP_VLM",
        "mmvp",
        "sugarcrepe",
    ]
    kinds = [Entry("winoground", f"a/examples{end}").name for end in (".json", ".jsonl", ".parquet", ".v1")]
    assert kinds == ["winoground_examples"] * 3 + ["winoground_examples.v1"]
    assert [each.name for each in planned[0]] == ["mmvp_pairs", "zero_shot_b", "probe"]
    assert pairs.args.prompt == "" and pairs.args.data == "sets/pairs" and pairs.args.batch_size == 3
    assert classes.args.split == "val" and classes.args.confusion and not pairs.task.shares_images
    assert probe.args.seed == 1 and classes.task.shares_images


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["mnist"], "there is no task 'mnist'"),
        ([""], "--tasks names no task"),
        (["zero-shot"], "required: --dataset"),
        (["mmvp:a:colour=red"], "unrecognized arguments: --colour red"),
        (["mmvp:x/a", "mmvp:y/a"], "two tasks are called mmvp_a"),
        (["mmvp:a:name=../b"], "makes no file name"),
        (["knn:d:label-column=a,b"], "'b' after 'knn:d:label-column=a' is none; lists need a --suite file"),
        (["mmvp:a:prompt=x", "mnist"], "there is no task 'mnist'"),
        (["zero-shot:a:model=other"], "unrecognized arguments: --model other"),
    ],
)
def test_a_bad_suite_is_refused_before_anything_is_done(words, said, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        command.main(["--model", "nowhere", "--tasks", *words, "--output", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and said in error
    assert not (tmp_path / "out").exists()


def test_scores_are_those_of_the_single_commands_and_a_failure_loses_none(place, monkeypatch, capsys) -> None:
    monkeypatch.chdir(place)
    shared = ["--model", "s0,s1", "--device", "cpu"]
    assert mmvp.main([*shared, "--data", "pairs", "--output", "alone/mmvp.json"]) == 0
    assert zero_shot.main([*shared, "--dataset", "animals", "--no-cache", "--output", "alone/zero.json"]) == 0
    capsys.readouterr()
    tasks = ["mmvp:pairs:name=mmvp,mmvp:nowhere,zero-shot:animals:no-cache=true:name=zero"]
    assert command.main([*shared, "--tasks", *tasks, "--output", "together"]) == 2
    out, error = capsys.readouterr()
    for name in ("mmvp", "zero"):
        assert (place / "together" / f"{name}.json").read_bytes() == (place / "alone" / f"{name}.json").read_bytes()
    assert sorted(each.name for each in (place / "together").iterdir()) == ["mmvp.json", "suite.yaml", "zero.json"]
    [told] = error.splitlines()
    assert told.startswith("error: mmvp_nowhere: nowhere/Questions.csv does not exist")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0][:5] == ["task", "metric", "stage_0", "stage_1", "fused"]
    fused = json.loads((place / "together/zero.json").read_text())[-1]["metrics"]["acc1"]
    assert lines[3][:2] == ["zero", "acc1"] and lines[3][4] == f"{100 * fused:.1f}"
    assert lines[2][:3] == ["mmvp_nowhere", "failed", "-"] and lines[-1][:2] == ["mmvp_nowhere", "failed:"]
    content = yaml.safe_load((place / "together/suite.yaml").read_text())
    assert list(content["failed"]) == ["mmvp_nowhere"]
    assert plan(from_file("together/suite.yaml")) == plan(from_words(tasks))


def test_a_task_that_fails_leaves_no_scores_of_another_model(place, monkeypatch, capsys) -> None:
    monkeypatch.chdir(place)
    words = ["--device", "cpu", "--output", "stale", "--tasks", "mmvp:moving,zero-shot:animals:no-cache=true"]
    shutil.copytree("pairs", "moving")
    assert command.main(["--model", "s1", *words]) == 0
    Path("moving").rename("moved")
    assert command.main(["--model", "s0", *words]) == 2
    found = {path.name for path in Path("stale").iterdir()}
    assert found == {"mmvp_moving.json.before", "zero_shot_animals.json", "suite.yaml"}
    text = write_report(Path("stale")).with_suffix(".md").read_text()
    assert "- mmvp_moving: moving/Questions.csv does not exist" in text and "Pair accuracy" not in text
    Path("moved").rename("moving")
    assert (
        mmvp.main(["--model", "s0", "--device", "cpu", "--data", "moving", "--output", "stale/mmvp_moving.json"]) == 0
    )
    text = write_report(Path("stale")).with_suffix(".md").read_text()
    assert "Not scored" not in text and "Pair accuracy" in text
    assert command.main(["--model", "s0", *words]) == 0 and not Path("stale/mmvp_moving.json.before").exists()


def test_an_error_of_no_users_loses_none_either(place, monkeypatch, capsys) -> None:
    monkeypatch.chdir(place)

    def broken(*args, **kwargs):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(zero_shot, "evaluate", broken)
    words = ["--tasks", "zero-shot:animals", "mmvp:pairs", "--limit", "2", "--batch-size", "3", "--output", "broken"]
    assert command.main(["--model", "s0", "--device", "cpu", *words]) == 2
    out, error = capsys.readouterr()
    assert "Traceback" in error and "zero_shot_animals failed: RuntimeError: no such kernel" in out
    [row] = json.loads((place / "broken/mmvp_pairs.json").read_text())
    again = [vars(each.args) for each in plan(from_file("broken/suite.yaml"))]
    assert [(each["limit"], each["batch_size"]) for each in again] == [(2, 3), (2, 3)]
    assert row["limit"] == 2 == row["metrics"]["n_pairs"] and not (place / "broken/zero_shot_animals.json").exists()


def test_two_ranks_give_the_scores_of_one(place, monkeypatch) -> None:
    monkeypatch.chdir(place)
    words = ["--model", "s0", "--device", "cpu", "--tasks", "zero-shot:animals:no-cache=true,mmvp:pairs,mmvp:nowhere"]
    for output, ranks in (("one", 1), ("two", 2)):
        log = place / f"{output}.log"
        assert run_job([*words, "--output", output], log, ranks, module="eval.main")[0] == 2, log.read_text()
        assert log.read_text().count("error: mmvp_nowhere:") == 1
    for name in ("zero_shot_animals.json", "mmvp_pairs.json", "suite.yaml"):
        assert (place / "two" / name).read_bytes() == (place / "one" / name).read_bytes()


def _failing(rank: int, world_size: int) -> str:
    def work() -> int:
        if rank == 1:
            raise KeyError("only here")
        return rank

    assert on_all_ranks(lambda: rank, world_size) == rank
    try:
        on_all_ranks(work, world_size)
    except (KeyError, UserError) as error:
        return f"{type(error).__name__} {error}"
    return "none"


def test_a_failure_of_one_rank_is_raised_by_all() -> None:
    assert run_ranks(_failing, 2) == ["UserError 'only here'", "KeyError 'only here'"]


def test_a_limit_is_spread_evenly(tmp_path) -> None:
    assert spread(7, None) == list(range(7)) == spread(7, 9) and spread(7, 3) == [0, 2, 4] and spread(0, 3) == []
    assert some("abcdefgh", 4) == ["a", "c", "e", "g"]
    data = open_set(str(class_folders(tmp_path / "set", per_class=4)))
    few = some_images(data, 6)
    assert [sample.label for sample in few.share()] == [0, 1, 2, 3, 4, 5] and few.size == 6
    assert [sample.label for sample in few.share(1, 2)] == [1, 3, 5] and few.classnames == data.classnames


@pytest.mark.parametrize(
    ("main", "flags"),
    [
        (zero_shot.main, ["--dataset", "x", "--output", "place"]),
        (zero_shot.main, ["--dataset", "x", "--clip-benchmark-dir", "file"]),
        (zero_shot.main, ["--dataset", "x", "--cache-dir", "file/cache"]),
        (mmvp.main, ["--data", "x", "--csv", "file/pairs.csv"]),
        (mmvp.main, ["--data", "x", "--html", "place"]),
        (command.main, ["--tasks", "mmvp:x", "--output", "file"]),
        (command.main, ["--tasks", "mmvp:x:html=place", "--output", "out"]),
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_anything_is_done(main, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "place").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as stop:
        main(["--model", "nowhere", *flags])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert ": name a" in error or "cannot be made" in error
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "place"]


def test_a_model_of_images_alone_is_no_traceback_of_a_text_scorer(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cfg = configuration() | {"features": {"dim": 96}, "embed_dim": 96}
    save_stage_model(image_model(), tmp_path / "images", model_cfg=cfg, preprocess_cfg=PREPROCESS)
    write_category(tmp_path / "crepe", "add_att", 2)
    table(tmp_path / "pairs")
    captions = coco(image_folder(tmp_path / "captions"))
    words = [f"retrieval:{captions}", "sugarcrepe:crepe:categories=add_att", "winoground:pairs/saved"]
    words += [
        f"zero-shot:{place}/animals",
        f"mmvp:{place}/pairs:name=mmvp",
        f"zero-shot:{place}/animals:no-cache=true:name=z",
    ]
    assert command.main(["--model", "images", "--device", "cpu", "--tasks", *words, "--output", "out"]) == 2
    out, error = capsys.readouterr()
    assert out.count("failed: images embeds images alone; use mcl-linear-probe or mcl-knn") == 6
    assert "Traceback" not in error


@pytest.mark.parametrize("device", ["cuda", "xpu", "foo"])
@pytest.mark.parametrize(
    ("main", "flags"),
    [(zero_shot.main, ["--dataset", "x"]), (mmvp.main, ["--data", "x"]), (command.main, ["--tasks", "mmvp:x"])],
)
def test_a_device_that_is_not_there_is_never_the_cpu_instead(main, flags, device, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        main(["--model", "nowhere", "--device", device, "--output", "out", *flags])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and f"--device is '{device}'" in error
