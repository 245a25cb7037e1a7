"""Winoground's three scores restated in plain loops, on every layout the two benchmarks come in."""

import io
import json
import zipfile
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

import mcl_clip
from eval.data.winoground import open_examples
from eval.models import ScoredModel
from eval.tasks.pair_similarities import PairSimilarities
from eval.tasks.winoground import matches
from eval.winoground import evaluate, main
from mcl_clip.errors import UserError
from mcl_clip.models.stage_model import save_stage_model
from tests.tiny_models import TINY, tiny_model

COUNT = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("stage") / "model"
    built = tiny_model("vit", 0)
    save_stage_model(built, directory, model_cfg=TINY["vit"], preprocess_cfg=built.visual.preprocess_cfg)
    return str(directory)


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def records() -> list[dict]:
    """As published: the names of Winoground's images have no extension."""
    return [
        {
            "id": row,
            **{f"image_{side}": f"ex_{row}_img_{side}" for side in (0, 1)},
            **{f"caption_{side}": f"caption {row} {side}" for side in (0, 1)},
            "collapsed_tag": "Object" if row % 2 else "Relation",
        }
        for row in range(COUNT)
    ]


def write_zip(path: Path, folder: str = "", more: dict[str, str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for row in range(COUNT):
            for side in (0, 1):
                archive.writestr(f"{folder}images/ex_{row}_img_{side}.png", encoded(2 * row + side))
        for name, text in (more or {}).items():
            archive.writestr(folder + name, text)


def published_winoground(directory: Path) -> Path:
    write_zip(directory / "data" / "images.zip")
    (directory / "data" / "examples.jsonl").write_text("\n".join(map(json.dumps, records())) + "\n")
    return directory


def table(directory: Path) -> Path:
    columns = {name: [record[name] for record in records()] for name in ("caption_0", "caption_1", "collapsed_tag")}
    for side in (0, 1):
        columns[f"image_{side}"] = [{"bytes": encoded(2 * row + side), "path": None} for row in range(COUNT)]
    features = {name: datasets.Image() if name.startswith("image") else datasets.Value("string") for name in columns}
    made = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    (directory / "parquet" / "data").mkdir(parents=True)
    made.to_parquet(directory / "parquet" / "data" / "test-00000-of-00001.parquet")
    made.save_to_disk(directory / "saved")
    return directory


def test_the_scores_are_the_published_rules_with_ties() -> None:
    generator = np.random.default_rng(0)
    similarity = generator.integers(0, 3, (300, 2, 2)).astype(float)  # [example, caption, image]
    found = matches(PairSimilarities(similarity, np.zeros(300), np.zeros(300)))
    for number, s in enumerate(similarity):
        text = s[0][0] > s[1][0] and s[1][1] > s[0][1]
        image = s[0][0] > s[0][1] and s[1][1] > s[1][0]
        assert [found[name][number] for name in ("text_score", "image_score", "group_score")] == [
            text,
            image,
            text and image,
        ]
    assert found["group_score"].any() and not found["text_score"].all()


def test_every_layout_gives_the_same_scores(tmp_path, model) -> None:
    scored = ScoredModel(*mcl_clip.load(model), name="m")
    wanted = evaluate(scored, open_examples("winoground", published_winoground(tmp_path / "published")))
    assert set(wanted[0]["intervals"]) > {"group_score", "text_score/Object", "image_score/Relation"}
    table(tmp_path)
    for name in ("parquet", "saved"):
        assert evaluate(scored, open_examples("winoground", tmp_path / name)) == wanted, name
    listed = json.dumps([{**record, "image_0": record["image_0"] + ".png"} for record in records()])
    write_zip(tmp_path / "zip" / "NaturalBench-Retrieval.zip", "NaturalBench-Retrieval/", {"metadata.json": listed})
    other = evaluate(scored, open_examples("naturalbench_retrieval", tmp_path / "zip"), benchmark="winoground")
    assert other == wanted
    with zipfile.ZipFile(tmp_path / "zip" / "NaturalBench-Retrieval.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    unpacked = open_examples("naturalbench_retrieval", tmp_path / "unpacked")
    assert evaluate(scored, unpacked, benchmark="winoground") == wanted


def test_a_parquet_and_a_list_of_ones_own_give_the_same_scores(tmp_path, model) -> None:
    scored = ScoredModel(*mcl_clip.load(model), name="m")
    wanted = evaluate(scored, open_examples("winoground", published_winoground(tmp_path / "published")))
    table(tmp_path)
    [parquet] = (tmp_path / "parquet" / "data").iterdir()
    assert evaluate(scored, open_examples("winoground", parquet)) == wanted
    (tmp_path / "own").mkdir()
    own = parquet.rename(tmp_path / "own" / "mine.parquet")  # which `datasets` takes for a split "train"
    assert evaluate(scored, open_examples("winoground", own.parent)) == wanted
    for row in range(COUNT):
        (tmp_path / "pictures" / str(row)).mkdir(parents=True)
        for side in (0, 1):
            (tmp_path / "pictures" / str(row) / f"{side}.png").write_bytes(encoded(2 * row + side))
    named = [record | {f"image_{side}": f"{record['id']}/{side}.png" for side in (0, 1)} for record in records()]
    (tmp_path / "mine.jsonl").write_text("\n".join(map(json.dumps, named)))
    found = open_examples("winoground", tmp_path / "mine.jsonl", tmp_path / "pictures")
    assert evaluate(scored, found) == wanted
    (tmp_path / "pictures" / "mine.json").write_text(json.dumps(named))
    assert evaluate(scored, open_examples("winoground", tmp_path / "pictures" / "mine.json")) == wanted
    (tmp_path / "pictures" / "5" / "1.png").unlink()
    with pytest.raises(UserError, match="--images"):
        open_examples("winoground", tmp_path / "mine.jsonl", tmp_path / "pictures")


@torch.inference_mode()
def test_scores_equal_the_model_asked_pair_by_pair(tmp_path, model) -> None:
    loaded, preprocess, tokenizer = mcl_clip.load(model)
    examples = open_examples("winoground", published_winoground(tmp_path))
    found = evaluate(ScoredModel(loaded, preprocess, tokenizer, "m"), examples)[0]["metrics"]
    right = 0
    for example in examples:
        images = torch.stack([preprocess(sample.image()) for sample in example.images])
        s = loaded.encode_text(tokenizer(list(example.captions)), True) @ loaded.encode_image(images, True).T
        right += bool(s[0, 0] > s[1, 0] and s[1, 1] > s[0, 1])
    assert found["text_score"] == right / COUNT and found["n_examples"] == COUNT


def test_a_gated_set_is_refused_with_the_steps(monkeypatch, model, capsys) -> None:
    from huggingface_hub.errors import GatedRepoError

    class Refusal(GatedRepoError):
        def __init__(self):
            pass

    def refuse(repository, file, repo_type):
        raise Refusal

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(SystemExit) as stop:
        main(["--model", model])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    assert "accept its terms" in error and "datasets/facebook/winoground" in error and "hf auth login" in error


@pytest.mark.parametrize("damage", ["folder", "image", "zip", "json", "column", "name", "null", "number", "line"])
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, model, damage, capsys) -> None:
    place, output = published_winoground(tmp_path / "set"), tmp_path / "scores.json"
    archive, listed = place / "data" / "images.zip", place / "data" / "examples.jsonl"
    if damage == "folder":
        place = tmp_path / "nowhere"
    elif damage == "image":
        with zipfile.ZipFile(archive, "w") as files:
            for row in range(COUNT):
                for side in (0, 1):
                    files.writestr(f"images/ex_{row}_img_{side}.png", b"no image")
    elif damage == "zip":
        archive.write_bytes(archive.read_bytes()[:100])
    elif damage == "json":
        listed.write_text("no json\n")
    elif damage == "column":
        listed.write_text(listed.read_text().replace("caption_1", "caption_one"))
    elif damage == "null":
        listed.write_text(listed.read_text().replace('"caption 1 1"', "null"))
    elif damage == "number":
        listed.write_text(listed.read_text().replace('"ex_0_img_0"', "5"))
    elif damage == "line":
        listed.write_text("5\n")
    else:
        listed.write_text(listed.read_text().replace("ex_0_img_0", "../../etc/passwd"))
    with pytest.raises(SystemExit) as stop:
        main(["--model", model, "--data", str(place), "--output", str(output), "--device", "cpu"])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1 and error.startswith("error: ")
    assert not output.exists()


def test_no_network_is_one_line() -> None:
    with pytest.raises(UserError, match=r"BaiqiL/NaturalBench cannot be fetched .*--data"):
        open_examples("naturalbench_retrieval")
