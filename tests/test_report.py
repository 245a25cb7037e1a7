"""The report of a run directory: what it says, in which order, and that it is safe to open."""

import base64
import io
import json
from html.parser import HTMLParser

import pytest
from PIL import Image

from eval.report import main, write_report
from eval.report.verdict import verdict
from mcl_clip.clustering.stage import cluster_stage
from mcl_clip.errors import UserError
from mcl_clip.shards.index import index_sources
from tests.clusters import stage_directory
from tests.tars import write_shards

EASY, HARD = "Color", "State"


def row(model: str, easy: float, hard: float, gain: float = 0.0, low: float = 0.0) -> dict:
    metrics = {"pair_accuracy": (easy + hard) / 2, f"pair_accuracy/{EASY}": easy, f"pair_accuracy/{HARD}": hard}
    metrics |= {"gain": gain / 2, f"gain/{HARD}": gain, f"gain/{EASY}": 0.0}
    ends = {name: (value - (gain - low), value + (gain - low)) for name, value in metrics.items()}
    return {"model": model, "task": "mmvp_vlm", "dataset": "pairs", "metrics": metrics, "intervals": ends}


def scores(task: str, **models: dict) -> list[dict]:
    names = {"task": task, "dataset": "set"}
    return [
        {"model": name, "metrics": each, "intervals": {key: [0.0, 1.0] for key in each}} | names
        for name, each in models.items()
    ]


def write_run(tmp_path):
    """A run directory with scores and losses alone."""
    (tmp_path / "scores").mkdir()
    (tmp_path / "stage_0").mkdir()
    (tmp_path / "recipe.yaml").write_text("versions: {torch: '2.6'}\n")
    pairs = [row("stage_0", 1.0, 0.5), row("fused_0-1", 1, 0.6, 0.1), row("fused", 1.0, 0.75, 0.25, 0.1)]
    (tmp_path / "scores" / "mmvp.json").write_text(json.dumps(pairs))
    for name, value in (("color", 0.9), ("texture", 0.4)):
        found = scores("zeroshot_classification", stage_0={"acc1": value}, fused={"acc1": value + 0.05})
        (tmp_path / "scores" / f"zero_shot_{name}.json").write_text(json.dumps(found))
    found = scores("sugarcrepe", stage_0={"accuracy/swap": 0.513})
    (tmp_path / "scores" / "sugarcrepe.json").write_text(json.dumps(found))
    lines = [{"step": step, "loss": 2 / (step + 1), "loss_mean": 2 / (step + 1)} for step in (0, 10, 20)]
    torn = "".join(json.dumps(line) + "\n" for line in lines) + '{"step": 30, "lo'
    (tmp_path / "stage_0" / "metrics.jsonl").write_text(torn)
    return tmp_path


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path)


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
        assert all(number in text for number in ("80.0", "75.0", "87.5", "95.0", "45.0", "51.3")), name
        assert "State" in text and "fused_0-1" in text


def test_what_stage_0_sees_least_comes_first(run):
    write_report(run)
    lines = (run / "report.md").read_text().splitlines()
    headers = [line for line in lines if line.startswith("| model")]
    assert headers[:2] == ["| model | mean | State | Color |", "| model | mean | texture | color |"]


def test_a_gain_is_told_with_its_interval():
    said = " ".join(verdict([row("stage_0", 1.0, 0.5), row("fused", 1.0, 0.75, 0.25, 0.13)]))
    assert "gets 87.5 % of the pairs right, stage 0 alone 75.0 %: +12.5 points (95 % interval +0.5 to +24.5" in said
    assert "suppressed State most (50.0 %)" in said and "+25.0 points (95 % interval +13.0 to +37.0" in said
    assert "does not show" not in said and "alone is above" not in said


def test_no_gain_is_told_as_plainly():
    said = verdict([row("stage_0", 1.0, 0.5), row("stage_1", 1.0, 0.6), row("fused", 0.9, 0.5, 0.0, -0.1)])
    assert "does not show that the fused model is better" in said[0]
    assert "does not show that the feature was recovered" in said[1]
    assert said[2] == "stage_1 alone is above the fused model, with 80.0 %."


def test_a_single_model_has_no_verdict():
    assert verdict([row("stage_0", 1.0, 0.5)]) == []


def test_a_file_that_holds_no_scores_is_named(run):
    (run / "scores" / "notes.json").write_text('[{"model": "stage_0"}]')
    with pytest.raises(UserError, match=r"notes\.json is no scores file"):
        write_report(run)


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


def test_clusters_are_shown_with_their_nearest_and_random_samples(run):
    source = index_sources(write_shards(run / "tars", 2, 20, broken_image=[(1, 3)]), run / "source")
    first = None
    for stage in range(2):
        model = stage_directory(run / f"stage_{stage}" / "model", seed=stage)
        previous = [first] if first else []
        first = cluster_stage(model, source, run / f"stage_{stage}" / "clusters", k=2, previous=previous).directory
    page = write_report(run).read_text()
    sheets = [address for address in Page(page).addresses if address.startswith("data:image/jpeg")]
    assert len(sheets) == 4
    for address in sheets:
        with Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))) as sheet:
            assert sheet.size[1] == 2 * 48 and 48 <= sheet.size[0] <= 12 * 48
    for text in (page, (run / "report.md").read_text()):
        assert "2 clusters, as uneven as" in text and "1 of 40 samples failed" in text and "bits are new" in text


def test_what_every_step_left_out_is_told_in_order(run):
    (run / "source").mkdir()
    (run / "stage_1" / "buckets").mkdir(parents=True)
    entry = {"count": 3, "first": ["a/<b>", "a/c"]}
    # A manifest whose tables are gone: the record alone is enough for the section.
    (run / "stage_1" / "buckets" / "manifest.json").write_text(json.dumps({"left_out": {"without a label": entry}}))
    told = {"plan": {"dropped": {"count": 12, "first": []}}, "reading": {}}
    (run / "stage_1" / "left_out.json").write_text(json.dumps(told))
    page = write_report(run).read_text()
    text = (run / "report.md").read_text()
    assert "- buckets of stage 1: 3 without a label (a/<b>, a/c, ...)\n- an epoch of stage 1: 12 dropped" in text
    assert "a/&lt;b&gt;" in page and "<b>" not in page


def test_a_run_that_left_nothing_out_has_no_such_section(run):
    assert "Left out" not in write_report(run).read_text() and "Left out" not in (run / "report.md").read_text()


def test_one_stage_or_all_stand_side_by_side_with_their_cost(run):
    pairs = [
        row("stage_0", 1.0, 0.5),
        row("stage_1", 0.9, 0.7, 0.2, 0.1),
        row("stage_2", 0.5, 0.71, 0.2, 0.1),
        row("fused_concat", 1.0, 0.6, 0.1),
        row("fused", 1.0, 0.75, 0.25, 0.1),
    ]
    (run / "scores" / "mmvp.json").write_text(json.dumps(pairs))
    assert "One stage or all" not in write_report(run).read_text()
    (run / "fused").mkdir()
    config = {
        "format": "mcl_clip.fused",
        "version": 1,
        "fusion": "fitted",
        "weights": [0.02, 0.9, 0.08],
        "collapsed": False,
        "stages": [{"tensors_of": {}}] * 3,
        "sha256": "",
        "sharing": {"image": {"steps": 12, "separate": 18}, "text": {"steps": 6, "separate": 18}},
        "card": {"fit": {"best_stage": 1, "pairs": 77}},
    }
    (run / "fused" / "mcl_config.json").write_text(json.dumps(config))
    page, text = write_report(run).read_text(), (run / "report.md").read_text()
    assert "One stage or all" in page and "least loss on the 77 pairs" in page
    lines = text[text.index("## One stage or all") :].splitlines()
    header = "| model | cost, images | cost, texts | mmvp, mean | mmvp, State | zero-shot, mean |"
    assert [line for line in lines if line.startswith("|")][:6] == [
        header,
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| best stage on the pairs that fit: stage_1 | 1.0 x | 1.0 x | 80.0 | 70.0 | - |",
        "| last stage: stage_2 | 1.0 x | 1.0 x | 60.5 | 71.0 | - |",
        "| concat | 2.0 x | 1.0 x | 80.0 | 60.0 | - |",
        "| fitted, 0.02 : 0.90 : 0.08 | 2.0 x | 1.0 x | 87.5 | 75.0 | 70.0 |",
    ]
