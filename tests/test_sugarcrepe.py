"""SugarCrepe: the official comparison restated, category means, and what users get wrong."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from eval.models import ScoredModel
from eval.sugarcrepe import evaluate, main, open_category
from mcl_clip import load
from mcl_clip.errors import UserError
from mcl_clip.models.stage_model import save_stage_model
from mcl_clip.openclip.tokenizers import SimpleTokenizer
from mcl_clip.openclip.transforms import PreprocessCfg, image_transform_v2
from tests.tiny_models import TINY, tiny_model


def write_category(directory: Path, category: str, count: int, damage: str = "") -> None:
    rng = np.random.default_rng(len(category))
    images = [Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)) for _ in range(count)]
    captions = [f"a {category} thing number {i}" for i in range(count)]
    negatives = [f"no {category} thing number {i}" for i in range(count)]
    tested = [[a, b] if i % 2 else [b, a] for i, (a, b) in enumerate(zip(captions, negatives, strict=True))]
    if damage == "labels":
        tested[-1] = [captions[-1], captions[-1]]
    if damage == "null":
        tested[-1] = [captions[-1], None]
    features = {
        "image": datasets.Image(),
        "tested_labels": datasets.Sequence(datasets.Value("string")),
        "true_label": datasets.ClassLabel(names=sorted(captions)),
    }
    columns = {"image": images, "tested_labels": tested, "true_label": captions}
    if damage == "true":
        columns["true_label"] = [*captions[:-1], None]
    if damage == "image":
        columns["image"][-1] = {"bytes": b"no image", "path": None}
    if damage == "column":
        del features["tested_labels"], columns["tested_labels"]
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    (directory / category).mkdir(parents=True)
    table.to_parquet(directory / category / "test.parquet")


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> str:
    paths = []
    for seed in (0, 1):
        model = tiny_model("vit", seed)
        paths.append(tmp_path_factory.mktemp("stage") / "model")
        save_stage_model(model, paths[-1], model_cfg=TINY["vit"], preprocess_cfg=model.visual.preprocess_cfg)
    return ",".join(map(str, paths))


@torch.inference_mode()
def test_a_sample_is_right_when_the_caption_is_strictly_closer(tmp_path, stages) -> None:
    write_category(tmp_path, "swap_obj", 9)
    write_category(tmp_path, "add_att", 4)
    write_category(tmp_path, "add_obj", 5)
    categories = [open_category(name, tmp_path) for name in ("swap_obj", "add_att", "add_obj")]
    model, preprocess, tokenizer = load(stages)
    rows = {
        row["model"]: row["metrics"] for row in evaluate(ScoredModel(model, preprocess, tokenizer, "m"), categories)
    }
    assert list(rows) == ["stage_0", "stage_1", "fused"]
    for name, alone in (("stage_0", model.stages[0]), ("stage_1", model.stages[1]), ("fused", model)):
        expected = {}
        for category in (each.name for each in categories):
            table, right = datasets.Dataset.from_parquet(str(tmp_path / category / "test.parquet")), 0
            for sample in table.cast_column("image", datasets.Image()):
                caption = table.features["true_label"].int2str(sample["true_label"])
                negative = next(text for text in sample["tested_labels"] if text != caption)
                image = alone.encode_image(preprocess(sample["image"])[None], normalize=True)
                text = alone.encode_text(tokenizer([caption, negative]), normalize=True)
                closer, other = (image @ text.T)[0].tolist()
                right += closer > other
            expected[category] = right / len(table)
        assert {category: rows[name][f"accuracy/{category}"] for category in expected} == pytest.approx(expected)
        add = (expected["add_att"] + expected["add_obj"]) / 2
        assert rows[name]["accuracy/add"] == pytest.approx(add)
        assert "accuracy/swap" not in rows[name]  # one of its two categories is not its mean
        assert rows[name]["accuracy"] == pytest.approx(sum(expected.values()) / 3)
    assert rows["fused"]["n_samples"] == 18


def test_the_authors_layout_gives_the_same_scores(tmp_path, stages) -> None:
    write_category(tmp_path / "table", "add_att", 5)
    category = open_category("add_att", tmp_path / "table")
    (tmp_path / "official/data").mkdir(parents=True)
    (tmp_path / "val2017").mkdir()
    listed = {}
    for number, (sample, (caption, negative)) in enumerate(zip(category.samples(), category.captions, strict=True)):
        (tmp_path / f"val2017/{number:012d}.jpg").write_bytes(sample.read())
        listed[str(number)] = {"filename": f"{number:012d}.jpg", "caption": caption, "negative_caption": negative}
    path = tmp_path / "official/data/add_att.json"
    path.write_text(json.dumps(listed))
    found = open_category("add_att", tmp_path / "official", tmp_path / "val2017")
    scored = ScoredModel(*load(stages))
    assert evaluate(scored, [found]) == evaluate(scored, [category])
    (tmp_path / "val2017").rename(tmp_path / "official/val2017")
    assert open_category("add_att", tmp_path / "official").captions == category.captions
    with pytest.raises(UserError, match="does not exist; name the folder of the images with --images"):
        open_category("add_att", tmp_path / "official", tmp_path)
    path.write_text('{"0": {"filename": "x.jpg", "caption": "one"}}')
    with pytest.raises(UserError, match=r"add_att\.json is not as SugarCrepe's authors publish it \(KeyError"):
        open_category("add_att", tmp_path / "official")
    for odd in ({"negative_caption": None}, {"filename": 5}):
        path.write_text(json.dumps({"0": {"filename": "x.jpg", "caption": "one", "negative_caption": "two"} | odd}))
        with pytest.raises(UserError, match="where a file name and two captions are expected"):
            open_category("add_att", tmp_path / "official")


def test_a_tie_is_wrong(tmp_path) -> None:
    write_category(tmp_path, "swap_att", 4)
    model = tiny_model("vit", 0)
    with torch.no_grad():
        model.text_projection.zero_()
    preprocess = image_transform_v2(PreprocessCfg(size=(32, 32)), is_train=False)
    tokenizer = SimpleTokenizer(context_length=16)
    rows = evaluate(ScoredModel(model, preprocess, tokenizer, "m"), [open_category("swap_att", tmp_path)])
    assert rows[0]["metrics"]["accuracy"] == 0.0


def test_the_hub_is_asked_and_its_silence_is_one_line(monkeypatch) -> None:
    def offline(name, split, revision):
        assert (name, split) == ("HuggingFaceM4/SugarCrepe_add_att", "test")
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"add_att .*cannot be loaded: no route to host; check"):
        open_category("add_att")


@pytest.mark.parametrize("damage", ["image", "column", "labels", "absent", "null", "true"])
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, stages, damage, capsys) -> None:
    if damage != "absent":
        write_category(tmp_path / "data", "add_att", 3, damage)
    output = tmp_path / "scores.json"
    flags = [
        "--model",
        stages,
        "--data",
        str(tmp_path / "data"),
        "--categories",
        "add_att",
        "--output",
        str(output),
    ]
    with pytest.raises(SystemExit) as stop:
        main(flags)
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    wanted = {"image": "image 2", "column": "tested_labels", "absent": "add_att"}
    assert wanted.get(damage, "sample 2") in lines[0]
    assert not output.exists()


def test_the_command_writes_a_scores_file(tmp_path, stages, capsys) -> None:
    write_category(tmp_path / "data", "add_att", 3)
    output = tmp_path / "scores.json"
    assert (
        main(
            [
                "--model",
                stages,
                "--data",
                str(tmp_path / "data"),
                "--categories",
                "add_att",
                "--output",
                str(output),
            ]
        )
        == 0
    )
    rows = json.loads(output.read_text())
    assert [row["model"] for row in rows] == ["stage_0", "stage_1", "fused"]
    assert all(
        row["task"] == "sugarcrepe" and set(row["intervals"]) == {"accuracy", "accuracy/add_att"} for row in rows
    )
    assert "fused" in capsys.readouterr().out
