"""MMVP: reading what was published, and the official rule restated."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mcl_clip
from eval.data.mmvp import REVISION, download, read_pairs
from eval.intervals import bootstrap_mean_of_groups, wilson
from eval.mmvp import evaluate, main
from eval.models import ScoredModel
from eval.tasks.pair_similarities import mean_of_groups, pair_similarities
from mcl_clip.errors import UserError
from mcl_clip.models.stage_model import save_stage_model
from tests.tiny_models import TINY, tiny_model

TYPES = ("Color", "Camera Perspective")


def write_set(directory: Path, pairs: int = 4, folder: str = "MLLM_VLM Images", spaced: bool = True) -> list[list]:
    rows = []
    rng = np.random.default_rng(0)
    for number in range(1, 2 * pairs + 1):
        kind = TYPES[(number - 1) // 2 % len(TYPES)]
        place = directory / folder / (kind if spaced else kind.replace(" ", "_"))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)).save(place / f"{number}.jpg")
        rows.append([str(number), kind, f"statement {number}"])
    return rows


def write_questions(directory: Path, rows: list[list], header=("Question ID", "Type", "Statement"), bom=False):
    with open(directory / "Questions.csv", "w", encoding="utf-8-sig" if bom else "utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def official(similarity: np.ndarray) -> list[list[bool]]:
    """The published script's rule in plain words: text 1 wants image 1 strictly ahead, text 2 takes ties."""
    answers = []
    for text1, text2 in similarity:
        guess1 = 1 if text1[0] > text1[1] else 2
        guess2 = 1 if text2[0] > text2[1] else 2
        answers.append([guess1 == 1, guess2 == 2])
    return answers


def test_the_score_is_the_official_rule_with_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(-1, 2, (80, 3), generator=generator).float()
    texts = torch.randint(-1, 2, (80, 3), generator=generator).float()
    scores = pair_similarities(images, texts)
    similarity = np.array(
        [[[float(texts[2 * p + t] @ images[2 * p + i]) for i in (0, 1)] for t in (0, 1)] for p in range(40)]
    )
    assert (similarity[:, :, 0] == similarity[:, :, 1]).any(), "the case of a tie must occur"
    assert scores.correct.tolist() == official(similarity)
    assert scores.same_image.tolist() == [(a[0] > a[1]) == (b[0] > b[1]) for a, b in similarity]


def test_types_of_unequal_size_weigh_the_same() -> None:
    assert mean_of_groups(np.array([1.0, 1.0, 0.0]), ["a", "a", "b"]) == {"a": 1.0, "b": 0.0}
    low, high = bootstrap_mean_of_groups([1, 1, 0, 1, 0, 0], list("aaabbb"))
    assert low < 0.5 < high


def test_wilson_matches_its_quadratic() -> None:
    low, high = wilson(0.3, 50)
    for bound in (low, high):
        assert abs(0.3 - bound) == pytest.approx(1.959964 * (bound * (1 - bound) / 50) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("folder", ["MLLM_VLM Images", "MMVP_VLM_Images"])
@pytest.mark.parametrize("spaced", [True, False])
def test_reads_any_order_bom_blank_lines_and_subsets(tmp_path, folder, spaced) -> None:
    rows = write_set(tmp_path, 4, folder, spaced)
    kept = [*rows[6:], [], *rows[2:4][::-1], ["", "", ""]]
    write_questions(tmp_path, kept, bom=True)
    pairs = read_pairs(tmp_path)
    assert [pair.ids for pair in pairs] == [(3, 4), (7, 8)]
    assert {pair.type for pair in pairs} == {"Camera Perspective"}
    assert pairs[0].statements == ("statement 3", "statement 4")
    assert pairs[0].images[1].name == "4.jpg"


def test_bad_sets_are_named(tmp_path) -> None:
    rows = write_set(tmp_path)
    write_questions(tmp_path, rows, header=("id", "kind", "text"))
    with pytest.raises(UserError, match="columns"):
        read_pairs(tmp_path)
    write_questions(tmp_path, rows[:-1])
    with pytest.raises(UserError, match="partner"):
        read_pairs(tmp_path)
    write_questions(tmp_path, [*rows, ["1", "Color", "again"]])
    with pytest.raises(UserError, match="twice"):
        read_pairs(tmp_path)
    write_questions(tmp_path, [["1", "../..", "a"], ["2", "../..", "b"]])
    with pytest.raises(UserError, match="no folder for the Type"):
        read_pairs(tmp_path)
    with pytest.raises(UserError, match=r"Questions\.csv"):
        read_pairs(tmp_path / "nowhere")


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> list[Path]:
    directories = []
    for seed in range(3):
        directory = tmp_path_factory.mktemp("stage") / str(seed)
        model = tiny_model("vit", seed)
        save_stage_model(model, directory, model_cfg=TINY["vit"], preprocess_cfg=model.visual.preprocess_cfg)
        directories.append(directory)
    return directories


def test_command_scores_stages_and_fusions(tmp_path, stages, capsys) -> None:
    write_questions(tmp_path, write_set(tmp_path))
    spec = ",".join(map(str, stages))
    outputs = [tmp_path / name for name in ("scores.json", "pairs.csv", "pairs.html")]
    flags = ["--output", str(outputs[0]), "--csv", str(outputs[1]), "--html", str(outputs[2])]
    assert main(["--model", spec, "--data", str(tmp_path), "--device", "cpu", *flags]) == 0
    results = json.loads(outputs[0].read_text())
    assert [row["model"] for row in results] == ["stage_0", "stage_1", "stage_2", "fused_0-1", "fused"]
    for row in results:
        metrics = row["metrics"]
        assert row["task"] == "mmvp_vlm" and metrics["n_pairs"] == 4
        by_type = [metrics[f"pair_accuracy/{kind}"] for kind in TYPES]
        assert metrics["pair_accuracy"] == pytest.approx(np.mean(by_type))
        for name, (low, high) in row["intervals"].items():
            assert low <= metrics[name] <= high or name.startswith("gain"), name
        assert {"pair_accuracy", "text_accuracy", "same_image_rate", "image_similarity"} <= set(row["intervals"])
        assert row["data_revision"].startswith("sha256:")
    lines = list(csv.DictReader(outputs[1].read_text().splitlines()))
    assert len(lines) == 5 * 4
    for row in results:
        mine = [int(line["correct"]) for line in lines if line["model"] == row["model"]]
        assert sum(mine) / 4 == pytest.approx(row["metrics"]["pair_accuracy"])  # Types of equal size
    page = outputs[2].read_text()
    assert "http" not in page and "<script" not in page and page.count("data:image/jpeg") == 2 * 4
    before, after = ([line["correct"] for line in lines if line["model"] == name] for name in ("stage_0", "fused"))
    for kind, pair in (("gained", ("0", "1")), ("lost", ("1", "0")), ("both", ("1", "1")), ("neither", ("0", "0"))):
        count = sum(each == pair for each in zip(before, after, strict=True))
        assert page.count(f'class="pair {kind}"') == count, kind
    assert "fused" in capsys.readouterr().out


def test_download_fetches_the_pinned_revision_or_says_what_to_do(tmp_path, monkeypatch) -> None:
    import huggingface_hub

    def snapshot(repository, repo_type, revision):
        assert (repository, repo_type, revision) == ("MMVP/MMVP_VLM", "dataset", REVISION)
        return str(tmp_path)

    with pytest.raises(UserError, match=r"MMVP/MMVP_VLM at 211372d5 cannot be fetched .*--data"):
        download()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert download() == tmp_path


def test_gains_are_paired(tmp_path, stages) -> None:
    write_questions(tmp_path, write_set(tmp_path, 6))
    rows = evaluate(ScoredModel(*mcl_clip.load(f"{stages[0]},{stages[0]}"), name=""), read_pairs(tmp_path))
    for kind in TYPES:
        low, high = rows[1]["intervals"][f"gain/{kind}"]
        assert rows[1]["metrics"][f"gain/{kind}"] == 0 and low == -high < 0, (
            "few pairs without a change are not certain"
        )
    rows = evaluate(ScoredModel(*mcl_clip.load(f"{stages[0]},{stages[1]}"), name=""), read_pairs(tmp_path))
    for kind in TYPES:
        first, second = (row["metrics"][f"pair_accuracy/{kind}"] for row in rows[:2])
        assert rows[1]["metrics"][f"gain/{kind}"] == pytest.approx(second - first)
        low, high = rows[1]["intervals"][f"gain/{kind}"]
        assert low <= second - first <= high


def test_rows_equal_each_model_alone(tmp_path, stages) -> None:
    write_questions(tmp_path, write_set(tmp_path, 6))
    pairs = read_pairs(tmp_path)

    def rows(spec: str) -> dict[str, dict]:
        scored = ScoredModel(*mcl_clip.load(spec), name=spec)
        return {
            row["model"]: {name: value for name, value in row["metrics"].items() if not name.startswith("gain")}
            for row in evaluate(scored, pairs)
        }

    together = rows(",".join(map(str, stages)))
    assert together["stage_1"] == pytest.approx(rows(str(stages[1]))["stage_0"])
    assert together["fused_0-1"] == pytest.approx(rows(f"{stages[0]},{stages[1]}")["fused"])


@pytest.mark.parametrize("damage", ["image", "type", "model"])
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, stages, damage, capsys) -> None:
    write_questions(tmp_path, write_set(tmp_path))
    model = str(stages[0])
    if damage == "image":
        (tmp_path / "MLLM_VLM Images" / "Color" / "1.jpg").write_bytes(b"no image")
    elif damage == "type":
        (tmp_path / "MLLM_VLM Images" / "Color").rename(tmp_path / "MLLM_VLM Images" / "Colour")
    else:
        model = str(tmp_path / "no-such-model")
    output = tmp_path / "scores.json"
    with pytest.raises(SystemExit) as exit_:
        main(["--model", model, "--data", str(tmp_path), "--device", "cpu", "--output", str(output)])
    assert exit_.value.code == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1 and error.startswith("error: ")
    assert not output.exists()
