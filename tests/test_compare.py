"""mcl-compare: McNemar's test by hand, counts by plain loops, and a page that needs nothing else."""

import json
from itertools import product
from math import comb
from pathlib import Path

import numpy as np
import pytest

from eval import mmvp
from eval.compare import main
from eval.data.mmvp import read_pairs
from eval.tasks.comparison import compare, mcnemar
from mcl_clip.errors import UserError
from mcl_clip.models.stage_model import save_stage_model
from tests.test_mmvp import write_questions, write_set
from tests.tiny_models import TINY, tiny_model

CHOICES = {
    "a": "12 12 12 12 11 22 21 11 22 21 11 12",
    "b": "12 12 21 11 12 12 12 12 22 21 11 12",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """The scores a.json and b.json on the same pairs, of other choices than a model's so that all cases occur."""
    root = tmp_path_factory.mktemp("place")
    write_questions(root, write_set(root, 12))
    built = tiny_model("vit", 0)
    save_stage_model(built, root / "a", model_cfg=TINY["vit"], preprocess_cfg=built.visual.preprocess_cfg)
    flags = ["--device", "cpu", "--data", str(root), "--output", str(root / "a.json")]
    assert mmvp.main(["--model", str(root / "a"), *flags]) == 0
    [row] = json.loads((root / "a.json").read_text())
    assert len(row["choices"].split()) == 12 and row["pairs"].split() == [str(2 * n + 1) for n in range(12)]
    for name, choices in CHOICES.items():
        (root / f"{name}.json").write_text(json.dumps([row | {"choices": choices, "source": name}]))
    return root


def test_mcnemar_sums_the_binomials_tails() -> None:
    for won, lost in product(range(7), range(7)):
        n, low = won + lost, min(won, lost)
        tail = sum(comb(n, k) for k in range(low + 1)) / 2**n
        assert mcnemar(won, lost) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(8, 2) == pytest.approx(0.109375)


def test_counts_and_differences_by_type() -> None:
    first, second = np.array([1.0, 0, 0, 1, 1, 0]), np.array([1.0, 1, 1, 0, 1, 0])
    found = compare(first, second, list("aaabbb"))
    assert [(each.type, each.pairs, each.first, each.second, each.won, each.lost) for each in found] == [
        ("a", 3, 1, 3, 2, 0),
        ("b", 3, 2, 1, 0, 1),
        ("all pairs", 6, 3, 4, 2, 1),
    ]
    assert [each.difference for each in found] == pytest.approx([2 / 3, -1 / 3, 1 / 6])
    assert all(each.interval[0] <= each.difference <= each.interval[1] for each in found)
    [alone] = compare(first, first, ["a"] * 6)
    assert alone.difference == 0 and alone.interval[0] == -alone.interval[1] < 0 and alone.p_value == 1


def test_command_counts_what_the_listings_hold(place, capsys) -> None:
    outputs = ["--output", str(place / "diff.json"), "--html", str(place / "diff.html")]
    assert main([str(place / "a.json"), str(place / "b.json"), "--data", str(place), *outputs]) == 0
    out = capsys.readouterr().out
    right = {name: [word == "12" for word in words.split()] for name, words in CHOICES.items()}
    won = sum(after and not before for before, after in zip(right["a"], right["b"], strict=True))
    lost = sum(before and not after for before, after in zip(right["a"], right["b"], strict=True))
    assert (won, lost) == (4, 2)
    said = json.loads((place / "diff.json").read_text())
    every = said["types"][-1]
    assert (every["type"], every["won"], every["lost"]) == ("all pairs", won, lost)
    assert every["p_value"] == pytest.approx(mcnemar(won, lost))
    assert said["first"]["source"] == "a" and said["second"]["model"] == "stage_0"
    assert out.splitlines()[-1].split()[:2] == ["all", "pairs"] and "A: stage_0" in out
    page = (place / "diff.html").read_text()
    assert "http" not in page and "<script" not in page and page.count("data:image/jpeg") == 2 * 12
    assert page.count('class="pair gained"') == won and page.count('class="pair lost"') == lost
    for number in (1, 2):
        assert f'id="type-{number}"' in page and f'<section id="of-{number}">' in page


def test_other_pairs_are_refused(place, tmp_path, capsys) -> None:
    scores = json.loads((place / "b.json").read_text())
    moved = tmp_path / "moved.json"
    moved.write_text(json.dumps([each | {"data_revision": "sha256:0"} for each in scores]))
    older = tmp_path / "older.json"
    older.write_text(json.dumps([{k: v for k, v in each.items() if k != "choices"} for each in scores]))
    rows = write_set(tmp_path, 12)
    write_questions(tmp_path, [[*row[:2], f"{row[2]} more"] for row in rows])
    a, b = str(place / "a.json"), str(place / "b.json")
    wanted = {
        (a, str(moved), "--data", str(place)): "scored on different pairs",
        (a, str(older), "--data", str(place)): "holds no choices",
        (a, b, "--data", str(tmp_path)): "is not what",
        (a, "--data", str(place)): "name two with --rows",
        (a, b, "--rows", "stage_0", "fused", "--data", str(place)): "no row fused but stage_0",
    }
    for arguments, said in wanted.items():
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--html", str(tmp_path / "page.html")])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and said in error and error.count("\n") == 1, error
    assert not (tmp_path / "page.html").exists()


def test_images_are_where_questions_name_them(tmp_path) -> None:
    write_set(tmp_path, 2)
    (tmp_path / "MLLM_VLM Images").rename(tmp_path / "my pictures")
    rows = [
        [str(n), "Any / Type", f"s{n}", f"my pictures/{'Color' if n < 3 else 'Camera Perspective'}/{n}.jpg"]
        for n in (1, 2, 3, 4)
    ]
    header = ("Question ID", "Type", "Statement", "Image")
    write_questions(tmp_path, rows, header)
    named = read_pairs(tmp_path)
    assert [pair.type for pair in named] == ["Any / Type"] * 2 and named[1].images[0].name == "3.jpg"
    write_questions(tmp_path, [[*row[:1], "Color", row[2], ""] for row in rows[:2]], header)
    assert read_pairs(tmp_path)[0].images == named[0].images, "any folder may hold the Types'"
    (tmp_path / "my pictures" / "Color").rename(tmp_path / "Color")
    assert read_pairs(tmp_path)[0].images[0] == tmp_path / "Color" / "1.jpg"
    for bad, said in (("../secret.jpg", "leads out of"), ("nothing.jpg", "does not exist")):
        write_questions(tmp_path, [[*row[:3], bad] for row in rows[:2]], header)
        with pytest.raises(UserError, match=said):
            read_pairs(tmp_path)
