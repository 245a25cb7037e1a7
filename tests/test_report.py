"""The report of a run directory: what it says, in which order, and that it is safe to open."""

import json
from html.parser import HTMLParser

import pytest

from eval.report import main, verdict, write_report
from mcl_clip.errors import UserError

EASY, HARD = "Color", "State"


def metrics(easy: float, hard: float, gain: float = 0.0, low: float = 0.0) -> dict:
    found = {"pair_accuracy": (easy + hard) / 2, f"pair_accuracy/{EASY}": easy, f"pair_accuracy/{HARD}": hard}
    gains = {f"gain/{HARD}": gain, f"gain_low/{HARD}": low, f"gain_high/{HARD}": gain + (gain - low)}
    return found | gains | {f"{name}/{EASY}": 0.0 for name in ("gain", "gain_low", "gain_high")}


def rows(**models: dict) -> list[dict]:
    return [{"model": name.replace("__", "-"), "metrics": each} for name, each in models.items()]


@pytest.fixture
def run(tmp_path):
    """A run directory with scores and losses alone."""
    (tmp_path / "scores").mkdir()
    (tmp_path / "stage_0").mkdir()
    (tmp_path / "recipe.yaml").write_text("packages: {torch: '2.6'}\n")
    pairs = rows(stage_0=metrics(1.0, 0.5), fused_0__1=metrics(1, 0.6), fused=metrics(1.0, 0.75, 0.25, 0.1))
    (tmp_path / "scores" / "mmvp.json").write_text(json.dumps(pairs))
    for name, value in (("color", 0.9), ("texture", 0.4)):
        scores = rows(stage_0={"acc1": value}, fused={"acc1": value + 0.05})
        (tmp_path / "scores" / f"zero_shot_{name}.json").write_text(json.dumps(scores))
    lines = [{"step": step, "loss": 2 / (step + 1), "loss_mean": 2 / (step + 1)} for step in (0, 10, 20)]
    torn = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 30, "lo'
    (tmp_path / "stage_0" / "metrics.jsonl").write_text(torn)
    return tmp_path


class Page(HTMLParser):
    """Tags, addresses and alternative texts of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.alts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        self.alts += [value for name, value in attrs if name == "alt"]


def test_the_page_stands_alone_and_describes_its_pictures(run):
    page = Page(write_report(run).read_text())
    assert page.tags.count("img") == len(page.alts) == 3 and all(page.alts)
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert "script" not in page.tags and "link" not in page.tags


def test_both_reports_hold_every_number(run):
    write_report(run)
    for name in ("report.html", "report.md"):
        text = (run / name).read_text()
        assert all(number in text for number in ("80.0", "75.0", "87.5", "95.0", "45.0")), name
        assert "State" in text and "fused_0-1" in text


def test_what_stage_0_sees_least_comes_first(run):
    write_report(run)
    lines = (run / "report.md").read_text().splitlines()
    headers = [line for line in lines if line.startswith("| model")]
    assert headers == ["| model | mean | State | Color |", "| model | mean | texture | color |"]


def test_a_gain_is_told_with_its_interval():
    said = " ".join(verdict({"stage_0": metrics(1.0, 0.5), "fused": metrics(1.0, 0.75, 0.25, 0.1)}))
    assert "is above stage 0: 87.5 against 75.0 (+12.5 points)" in said
    assert "suppressed State most (50.0)" in said and "+25.0 points, 95 % interval +10.0 to +40.0" in said
    assert "does not show" not in said


def test_no_gain_is_told_as_plainly():
    said = " ".join(verdict({"stage_0": metrics(1.0, 0.5), "fused": metrics(0.9, 0.5, 0.0, -0.1)}))
    assert "is not above stage 0" in said and "does not show that the feature was recovered" in said


def test_a_single_model_has_no_verdict():
    assert verdict({"stage_0": metrics(1.0, 0.5)}) == []


def test_names_from_files_cannot_write_html(run):
    path = run / "scores" / "mmvp.json"
    path.write_text(path.read_text().replace("State", "<script>alert(1)</script>"))
    assert "script" not in Page(write_report(run).read_text()).tags


def test_a_run_without_scores_is_reported_as_far_as_it_got(run):
    for file in (run / "scores").iterdir():
        file.unlink()
    assert Page(write_report(run).read_text()).tags.count("img") == 1


def test_a_directory_that_is_no_run_is_refused_and_left_alone(tmp_path, capsys):
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        write_report(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main([str(tmp_path)])
    assert ended.value.code == 2 and capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())
