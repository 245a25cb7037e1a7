"""Retrieval: CLIP_benchmark's numbers, a double loop, ties, and the same scores in every layout."""

import io
import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

import mcl_clip
from eval.data.retrieval import open_captions
from eval.models import ScoredModel
from eval.retrieval import main
from eval.tasks import ranks as ranks_module
from eval.tasks.ranks import Own, ranks
from eval.tasks.retrieval import Captions, evaluate, retrieve
from mcl_clip.errors import UserError
from mcl_clip.models.stage_model import save_stage_model
from tests.tars import write_tar
from tests.test_collapse import fused_of, with_shared_text
from tests.tiny_models import TINY, tiny_model

COUNT = 23


def captions_of(number: int) -> list[str]:
    return [f"picture {number} seen {times} times" for times in range(1 + number % 5)]


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (24, 20, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def webdataset(root: Path) -> Path:
    (root / "test").mkdir(parents=True)
    (root / "dataset_type.txt").write_text("retrieval")
    (root / "test/nshards.txt").write_text("2")
    for shard, numbers in enumerate((range(12), range(12, COUNT))):
        files = ((f"s{n:07d}.png", encoded(n), f"s{n:07d}.txt", "\n".join(captions_of(n)).encode()) for n in numbers)
        write_tar(root / f"test/{shard}.tar", (pair for each in files for pair in (each[:2], each[2:])))
    return root


def image_folder(root: Path) -> Path:
    root.mkdir(parents=True)
    for number in range(COUNT):
        (root / f"{number}.png").write_bytes(encoded(number))
    return root


def coco(root: Path) -> Path:
    """A COCO file; annotations in the order of their ids, not of images, as COCO has them."""
    annotations = [{"image_id": n, "caption": text} for n in range(COUNT) for text in captions_of(n)]
    images = [{"id": n, "file_name": f"{n}.png"} for n in range(COUNT)]
    order = sorted(range(len(annotations)), key=lambda place: (place % 7, place))
    path = root / "captions_test.json"
    path.write_text(json.dumps({"images": images, "annotations": [annotations[place] for place in order]}))
    return path


def karpathy(root: Path) -> Path:
    images = [
        {
            "filepath": "pictures",
            "filename": f"{n}.png",
            "split": "test",
            "sentences": [{"raw": t} for t in captions_of(n)],
        }
        for n in range(COUNT)
    ]
    path = root / "dataset_flickr.json"
    path.write_text(json.dumps({"images": [{"filename": "x.png", "split": "train", "sentences": []}, *images]}))
    return path


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> str:
    directories = []
    for seed in range(2):
        directory = tmp_path_factory.mktemp("stage") / str(seed)
        model = tiny_model("vit", seed)
        save_stage_model(model, directory, model_cfg=TINY["vit"], preprocess_cfg=model.visual.preprocess_cfg)
        directories.append(str(directory))
    return ",".join(directories)


def scored(spec: str) -> ScoredModel:
    return ScoredModel(*mcl_clip.load(spec), name=spec)


def metrics(results: list[dict]) -> dict[str, dict]:
    return {row["model"]: row["metrics"] for row in results}


def test_equals_clip_benchmark(tmp_path, stages) -> None:
    from clip_benchmark.datasets.builder import build_wds_dataset, image_captions_collate_fn
    from clip_benchmark.metrics import zeroshot_retrieval

    folder = webdataset(tmp_path / "set")
    results = evaluate(scored(stages), open_captions(str(folder)), batch_size=5)
    assert [row["task"] for row in results] == ["zeroshot_retrieval"] * 3
    model, preprocess, tokenizer = mcl_clip.load(stages)
    for row, subset in (("stage_0", [0]), ("stage_1", [1]), ("fused", [0, 1])):
        data = build_wds_dataset("set", preprocess, data_dir=str(folder))
        loader = torch.utils.data.DataLoader(data, batch_size=4, collate_fn=image_captions_collate_fn)
        theirs = zeroshot_retrieval.evaluate(
            model.subset(subset), loader, tokenizer, "cpu", amp=False, recall_k_list=[1, 5, 10]
        )
        ours = metrics(results)[row]
        assert {name: ours[name] for name in theirs} == pytest.approx(theirs) and len(theirs) == 6
        assert ours["n_images"] == COUNT and ours["n_captions"] == sum(len(captions_of(n)) for n in range(COUNT))
    for row in results:
        for name, (low, high) in row["intervals"].items():
            assert 0 <= low <= row["metrics"][name] <= high <= 1 and low < high


def slow_ranks(queries, gallery, own, copies):
    similarity = queries @ gallery.T
    found = []
    for query in range(len(queries)):
        mine = {int(entry) for asked, entry in zip(own.query, own.entry, strict=True) if asked == query}
        best = max(similarity[query, entry] for entry in mine)
        rivals = [
            copies[entry] for entry in range(len(gallery)) if entry not in mine and similarity[query, entry] >= best
        ]
        found.append(int(sum(rivals)))
    return found


@pytest.mark.parametrize("tile", [1, 40, 100, 10**6])
def test_ranks_are_a_double_loops_in_tiles_of_any_size(monkeypatch, tile) -> None:
    monkeypatch.setattr(ranks_module, "TILE", tile)
    random = torch.Generator().manual_seed(0)
    # Small whole numbers: products are exact, ties are many.
    queries, gallery = (torch.randint(-2, 3, (count, 4), generator=random).float() for count in (31, 20))
    pairs = torch.unique(
        torch.stack([torch.arange(31).repeat(3), torch.randint(0, 20, (93,), generator=random)]), dim=1
    )
    own, copies = Own(pairs[0], pairs[1]), torch.randint(1, 4, (20,), generator=random)
    assert ranks(queries, gallery, own, copies=copies).tolist() == slow_ranks(queries, gallery, own, copies)
    rows = torch.arange(31).flip(0)
    mirrored = ranks(queries.flip(0), gallery, own, rows=rows, copies=copies)
    assert mirrored.tolist() == slow_ranks(queries, gallery, own, copies)


def test_ties_count_against_but_ones_own_words_do_not() -> None:
    captions = Captions.of([["a"], ["b", "a"], ["c"]])
    assert (captions.unique, captions.image.tolist(), captions.text.tolist()) == (
        ["a", "b", "c"],
        [0, 1, 1, 2],
        [0, 1, 0, 2],
    )
    by_image, by_caption = retrieve(torch.ones(3, 2), torch.ones(3, 2), captions)
    # All equal: of images 0, 1, 2 the rivals are b c, c, a b a; of a caption the two other images.
    assert by_image.tolist() == [[False, True, True]] * 3 and not by_caption[:, 0].any() and by_caption[:, 1].all()
    apart = torch.eye(3)
    by_image, by_caption = retrieve(apart, apart, captions)
    assert by_image[[0, 2]].all() and by_image[1, 0], "image 1 finds b, and the words of image 0 are its own too"
    assert by_caption[:, 0].tolist() == [True, True, False, True], "a, as a caption of image 1, finds image 0 first"


def test_every_layout_gives_the_same_scores(tmp_path, stages) -> None:
    pictures = image_folder(tmp_path / "pictures")
    names = {
        "webdataset": str(webdataset(tmp_path / "set")),
        "coco": str(coco(pictures)),
        "karpathy": str(karpathy(tmp_path)),
    }
    rows = {
        "image": [{"bytes": encoded(n), "path": None} for n in range(COUNT)],
        "captions": [captions_of(n) for n in range(COUNT)],
    }
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    table.save_to_disk(tmp_path / "saved")
    names["saved"] = str(tmp_path / "saved")
    found = {name: evaluate(scored(stages), open_captions(place)) for name, place in names.items()}
    for name, results in found.items():
        assert metrics(results)["stage_0"] == metrics(found["webdataset"])["stage_0"], name
    revisions = {results[0]["data_revision"] for results in (found["webdataset"], found["karpathy"], found["saved"])}
    assert len(revisions) == 1 and revisions.pop().startswith("sha256:")


def test_the_collapsed_model_scores_as_the_fused_one(tmp_path) -> None:
    fused, data = fused_of(*with_shared_text()), open_captions(str(webdataset(tmp_path / "set")))
    both = [
        evaluate(ScoredModel(each, each.preprocess, each.tokenizer), data)[-1]["metrics"]
        for each in (fused, fused.collapse())
    ]
    assert both[0] == both[1]


def test_images_without_captions_are_left_out_and_told(tmp_path) -> None:
    path = coco(image_folder(tmp_path / "pictures"))
    content = json.loads(path.read_text())
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] != 3]
    path.write_text(json.dumps(content))
    data = open_captions(str(path))
    assert len(data.captions) == COUNT - 1 and data.notes == (f"left out of {path} are images without a caption: 1",)


@pytest.mark.parametrize(
    "damage", ["json", "layout", "split", "outside", "absent", "column", "caption", "nowhere", "n", "many", "image"]
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, stages, damage, capsys) -> None:
    path, more = karpathy(tmp_path), []
    image_folder(tmp_path / "pictures")
    content, wanted = json.loads(path.read_text()), {"json": "cannot be read as JSON", "layout": "neither COCO's"}
    wanted |= {"split": "no split val but test, train", "outside": "leads out of", "absent": "with --images"}
    wanted |= {"column": "no column words but", "caption": "lacks its .txt", "nowhere": "does not exist"}
    if damage == "json":
        path.write_text("{")
    elif damage == "layout":
        path.write_text('{"images": [3]}')
    elif damage == "split":
        more = ["--split", "val"]
    elif damage == "outside":
        content["images"][1]["filename"] = "../../etc/passwd"
        path.write_text(json.dumps(content))
    elif damage == "absent":
        (tmp_path / "pictures/4.png").unlink()
    elif damage == "column":
        rows = {"image": [{"bytes": encoded(0), "path": None}], "captions": ["x"]}
        datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).save_to_disk(tmp_path / "saved")
        path, more = tmp_path / "saved", ["--caption-column", "words"]
        capsys.readouterr()
    elif damage in ("n", "many", "image"):  # columns of numbers, of lists of numbers, of images
        rows = {"image": [{"bytes": encoded(0), "path": None}], "n": [0], "many": [[1, 2]]}
        datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).save_to_disk(tmp_path / "saved")
        path, more, wanted[damage] = tmp_path / "saved", ["--caption-column", damage], "holds no texts but"
        capsys.readouterr()
    elif damage == "caption":
        path = webdataset(tmp_path / "set")
        write_tar(path / "test/1.tar", [("s9.png", encoded(9))])
    else:
        path = tmp_path / "no-such-folder"
    output = tmp_path / "scores.json"
    with pytest.raises(SystemExit) as exit_:
        main(["--model", stages, "--dataset", str(path), "--device", "cpu", "--output", str(output), *more])
    error = capsys.readouterr().err.strip().splitlines()
    assert exit_.value.code == 2 and len(error) == 1 and wanted[damage] in error[0] and not output.exists()


def test_command_prints_and_writes(tmp_path, stages, capsys) -> None:
    output = tmp_path / "scores.json"
    flags = ["--model", stages, "--dataset", str(webdataset(tmp_path / "set")), "--device", "cpu"]
    assert main([*flags, "--output", str(output), "--markdown"]) == 0
    assert capsys.readouterr().out.startswith(
        "| model | image_retrieval_recall@1 | 95 % interval | image_retrieval_recall@5"
    )
    results = json.loads(output.read_text())
    assert [row["model"] for row in results] == ["stage_0", "stage_1", "fused"]


def test_a_json_of_its_own_images_only() -> None:
    with pytest.raises(UserError, match="--images belongs to a JSON"):
        open_captions("owner/name", images="folder")
