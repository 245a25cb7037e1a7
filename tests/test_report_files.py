"""The report of files that are not alike: other rows, several sets, some samples, damage."""

import json

import pytest

from eval.report import main, write_report
from eval.report.run_facts import read_run
from tests.test_report import row, scores, write_run


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path)


def test_scores_of_some_samples_say_so(run):
    for name, limit in (("mmvp", 12), ("zero_shot_color", 34), ("sugarcrepe", 56)):
        path = run / "scores" / f"{name}.json"
        path.write_text(json.dumps([each | {"limit": limit} for each in json.loads(path.read_text())]))
    write_report(run)
    for name in ("report.html", "report.md"):
        text = (run / name).read_text()
        assert "first. 12 samples only." in text and "set. color: 34 samples only." in text, name
        assert "Percent. 56 samples only." in text and text.count("samples only") == 3, name


def test_a_set_that_one_stage_was_scored_on_has_dashes_and_no_say_in_the_mean(run):
    found = scores("zeroshot_classification", stage_0={"acc1": 0.1})
    (run / "scores" / "zero_shot_stage1.json").write_text(json.dumps(found))
    write_report(run)
    text = (run / "report.md").read_text()
    assert "| stage_0 | 65.0 | 10.0 | 40.0 | 90.0 |" in text and "| fused | 70.0 | - | 45.0 | 95.0 |" in text
    assert "The mean is that of zero_shot_color, zero_shot_texture." in text


def test_two_sets_of_pairs_are_told_apart(run):
    pairs = [row("stage_0", 1.0, 0.5), row("fused", 1.0, 0.9, 0.4, 0.1)]
    (run / "scores" / "hard.json").write_text(json.dumps(pairs))
    page, text = write_report(run).read_text(), (run / "report.md").read_text()
    for name, share in (("hard", "95.0 %"), ("mmvp", "87.5 %")):
        assert f"<h2>{name}: Pair accuracy by pattern</h2>" in page and f"## {name}: Pair accuracy by pattern" in text
        assert f"{name}: fused<strong>{share}" in page and f"{name}: The fused model gets {share}" in text
        assert f"{name}: Stage 0 suppressed State" in text


def test_a_folder_beside_the_stages_is_none(run):
    (run / "stage_0.bak").mkdir()
    (run / "stage_0").rename(run / "stage_3")
    write_report(run)
    assert list(read_run(run).losses) == [3]


@pytest.mark.parametrize(
    ("name", "text"), [("recipe.yaml", "a: [1\n"), ("recipe.yaml", "7"), ("scores/suite.yaml", "- a")]
)
def test_a_damaged_file_is_one_line(run, name, text, capsys):
    (run / name).write_text(text)
    with pytest.raises(SystemExit) as ended:
        main([str(run)])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and f"{name} cannot be read" in error


def test_a_student_has_its_row_and_its_cost(run):
    (run / "fused").mkdir()
    (run / "fused" / "mcl_config.json").write_text(
        json.dumps(
            {
                "format": "mcl_clip.fused",
                "version": 1,
                "fusion": "concat",
                "weights": None,
                "collapsed": False,
                "stages": [{"tensors_of": {}}] * 2,
                "sha256": "",
                "sharing": {"image": {"steps": 12, "separate": 12}, "text": {"steps": 12, "separate": 12}},
                "card": {},
            }
        )
    )
    below = run / "student/scores"
    below.mkdir(parents=True)
    (below / "mmvp.json").write_text(json.dumps([row("stage_0", 1.0, 0.72)]))
    assert "of the fused model" not in write_report(run).read_text()  # not scored on all that the run was
    for name in ("color", "texture"):
        found = scores("zeroshot_classification", stage_0={"acc1": 0.8})
        (below / f"zero_shot_{name}.json").write_text(json.dumps(found))
    (below / "sugarcrepe.json").write_text(json.dumps(scores("sugarcrepe", stage_0={"accuracy/swap": 0.6})))
    for change in ({"limit": 12}, {"data_revision": "sha256:0"}):
        (below / "mmvp.json").write_text(json.dumps([row("stage_0", 1.0, 0.72) | change]))
        page = write_report(run).read_text()
        assert "of the fused model" not in page and "student: on other samples than the run" in page
    (below / "mmvp.json").write_text(json.dumps([row("stage_0", 1.0, 0.72)]))
    write_report(run)
    text = (run / "report.md").read_text()
    assert "| student | 86.0" in text and "Not scored" not in text
    lines = text[text.index("## One stage or all") :].splitlines()
    assert [line for line in lines if line.startswith("|")][2:5] == [
        "| last stage: stage_1 | 1.0 x | 1.0 x | - | - | - |",
        "| concat | 2.0 x | 2.0 x | 87.5 | 75.0 | 70.0 |",
        "| student of the fused model | 1.0 x | 1.0 x | 86.0 | 72.0 | 80.0 |",
    ]
