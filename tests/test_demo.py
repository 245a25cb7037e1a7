"""The demo: data as the tools of the field write and read it, and a tiny run from nothing to a report."""

import hashlib
import json
import shlex
import tarfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

import mcl_clip  # registers the demo's tower
from demo.__main__ import main
from demo.data import TINY, generate
from demo.features import FEATURES, NAMES
from eval import knn, linear_probe, mmvp, retrieval, sugarcrepe, winoground, zero_shot
from eval.compare import main as compare_main
from eval.data.mmvp import read_pairs
from eval.data.retrieval import open_captions
from eval.data.sugarcrepe import open_category
from eval.data.winoground import open_examples
from eval.main import main as eval_main
from eval.report import main as report_main
from mcl_clip.errors import UserError
from mcl_clip.shards.manifest import Manifest
from training.cluster import main as cluster_main
from training.export_hf import main as export_main
from training.fuse import main as fuse_main
from training.main import main as train_main
from training.shards import main as shards_main

SMALL = replace(TINY, images=40, shard=25, pairs=3, zero_shot=16)


def digests(directory: Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_arguments_give_the_same_bytes(tmp_path) -> None:
    first, second, other = (generate(tmp_path / name, SMALL, seed) for name, seed in (("a", 3), ("b", 3), ("c", 4)))
    assert digests(first) == digests(second)
    assert digests(first).keys() == digests(other).keys()
    assert digests(first)["train/00000.tar"] != digests(other)["train/00000.tar"]


def test_an_unfinished_data_set_is_made_again(tmp_path) -> None:
    directory = generate(tmp_path, SMALL, 0)
    whole = digests(directory)
    (directory / "data.json").unlink()
    (directory / "train" / "00001.tar").write_bytes(b"cut")
    assert digests(generate(directory, SMALL, 0)) == whole
    with pytest.raises(UserError, match="another seed, size or version; give another --output"):
        generate(directory, SMALL, 1)
    assert digests(directory) == whole


def test_shards_are_as_img2dataset_writes_them(tmp_path) -> None:
    train = generate(tmp_path, SMALL, 0) / "train"
    assert sorted(path.name for path in train.iterdir()) == [
        "00000.tar",
        "00000_stats.json",
        "00001.tar",
        "00001_stats.json",
    ]
    assert json.loads((train / "00001_stats.json").read_text())["successes"] == 15
    with tarfile.open(train / "00000.tar") as tar:
        names = tar.getnames()
        assert names[:3] == ["000000000.jpg", "000000000.json", "000000000.txt"] and len(names) == 75
        record = json.loads(tar.extractfile("000000007.json").read())
        assert tar.extractfile("000000007.txt").read().decode() == record["caption"]
        assert record["key"] == "000000007" and record["status"] == "success"
        assert set(NAMES) <= set(record)
        assert Image.open(tar.extractfile("000000007.jpg")).size == (record["width"], record["height"])


def test_pairs_differ_in_the_named_feature_alone(tmp_path) -> None:
    pairs = read_pairs(generate(tmp_path, SMALL, 0) / "mmvp")
    assert len(pairs) == SMALL.pairs * len(FEATURES)
    for pair in pairs:
        feature = next(each for each in FEATURES if each.pattern == pair.type)
        assert set(pair.statements) <= set(feature.phrases) and pair.statements[0] != pair.statements[1]


def test_the_pairs_are_listed_for_other_benchmarks_too(tmp_path) -> None:
    directory = generate(tmp_path, SMALL, 0)
    pairs = read_pairs(directory / "mmvp")
    examples = open_examples("winoground", directory / "captions" / "examples.jsonl", directory / "mmvp")
    crepe = open_category("replace_att", directory / "captions", directory / "mmvp")
    assert [example.captions for example in examples] == list(crepe.captions)
    for pair, example in zip(pairs, examples, strict=True):
        assert [Path(image.where) for image in example.images] == list(pair.images)
        first, second = (caption.split() for caption in example.captions)
        differ = [words for words in zip(first, second, strict=True) if words[0] != words[1] and "an" not in words]
        feature = next(each for each in FEATURES if each.pattern == pair.type)
        assert len(differ) == 1 and set(differ[0]) <= set(feature.values)
    retrieval = open_captions(str(directory / "captions" / "captions.json"), images=str(directory / "mmvp"))
    assert len(retrieval.captions) == len(pairs) and {len(each) for each in retrieval.captions} == {2}


def test_datasets_reads_the_zero_shot_sets(tmp_path, monkeypatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    directory = generate(tmp_path / "data", SMALL, 0) / "zero_shot" / NAMES[0]
    loaded = datasets.load_dataset(str(directory), split="test", cache_dir=str(tmp_path / "cache"))
    phrases = {phrase.replace(" ", "_") for phrase in FEATURES[0].phrases}
    assert len(loaded) == SMALL.zero_shot and set(loaded.features["label"].names) == phrases


class Links(HTMLParser):
    """Every address a page would fetch."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("clone") / "runs" / "demo"
    assert main(["--size", "tiny", "--output", str(directory)]) == 0
    return directory


def test_a_tiny_run_leaves_the_whole_run_directory(run) -> None:
    for name in (
        "recipe.yaml",
        "stage_0/clusters/clusters.json",
        "stage_1/buckets/manifest.json",
        "stage_2/model/open_clip_model.safetensors",
        "fused/mcl_config.json",
        "report.html",
        "report.md",
    ):
        assert (run / name).is_file(), name
    rows = ["stage_0", "stage_1", "stage_2", "fused_0-1", "fused_concat", "fused"]
    for name in ("mmvp", *(f"zero_shot_{name}" for name in NAMES)):
        results = json.loads((run / "scores" / f"{name}.json").read_text())
        assert [result["model"] for result in results] == rows, name
        metric = "pair_accuracy" if name == "mmvp" else "acc1"
        assert all(0 <= result["metrics"][metric] <= 1 for result in results)


def test_every_stage_is_an_open_clip_model(run) -> None:
    for stage in range(3):
        spec = f"local-dir:{run / f'stage_{stage}' / 'model'}"
        model, _, preprocess = open_clip.create_model_and_transforms(spec)
        with torch.no_grad():
            features = model.eval().encode_image(preprocess(Image.new("RGB", (40, 32), "red")).unsqueeze(0))
        assert torch.isfinite(features).all()


def test_the_fused_model_is_the_stages_side_by_side(run) -> None:
    fused, preprocess, _ = mcl_clip.load(run / "fused")
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    image = preprocess(Image.fromarray(noise)).unsqueeze(0)
    with torch.no_grad():
        parts = [stage.encode_image(image, normalize=True) for stage in fused.stages]
        weighted = [part * weight**0.5 for part, weight in zip(parts, fused.weights, strict=True)]
        assert torch.allclose(fused.encode_image(image), torch.cat(weighted, -1), atol=1e-6)
    apart = Manifest.load(run / "source").num_apart
    assert fused.fusion == "fitted" and fused.card["fit"]["set_apart"]["samples"] == apart > 50
    for number, stage in enumerate(fused.stages):
        saved = mcl_clip.load(run / f"stage_{number}" / "model")[0].state_dict()
        assert all(torch.equal(tensor, saved[name]) for name, tensor in stage.state_dict().items())


def test_the_report_fetches_nothing_and_names_every_model(run) -> None:
    page = (run / "report.html").read_text()
    links = Links()
    links.feed(page)
    assert links.found and all(link.startswith("data:") for link in links.found)
    for name in ("stage_0", "stage_2", "fused", "cluster 0", *(feature.pattern for feature in FEATURES)):
        assert name in page and (name == "cluster 0" or name in (run / "report.md").read_text())


def test_run_again_reuses_what_is_finished(run, capfd) -> None:
    before = digests(run)
    assert main(["--size", "tiny", "--output", str(run)]) == 0
    assert "epoch 1/" not in capfd.readouterr().err
    changed = {name for name, digest in digests(run).items() if before.get(name) != digest}
    assert changed <= {"out.log"}


@pytest.mark.parametrize(
    ("command", "subcommand"),
    [
        *((shards_main, name) for name in ("", "pack", "index", "bucket", "verify")),
        *((each, "") for each in (train_main, cluster_main, fuse_main, export_main)),
        *((each, "") for each in (eval_main, compare_main, report_main)),
        *((each.main, "") for each in (mmvp, zero_shot, retrieval, sugarcrepe, winoground, linear_probe, knn)),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__module__", ""),
)
def test_help_begins_with_two_examples_that_run_as_they_stand(run, command, subcommand, monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit):
        command([*subcommand.split(), "--help"])
    _, _, rest = capsys.readouterr().out.partition("\n\n")  # behind the usage
    title, first, second, end, *_ = rest.splitlines()
    assert (title, end) == ("examples:", "")
    monkeypatch.chdir(run.parent.parent)
    monkeypatch.setenv("MCL_CLIP_CACHE", "runs/cache")
    for example in (first, second):
        name, *arguments = shlex.split(example)
        assert example.startswith(f"  {name} ") and " ".join(arguments).startswith(subcommand)
        assert command(arguments) == 0, example


def test_report_of_something_else_is_refused(tmp_path) -> None:
    with pytest.raises(SystemExit) as exit_:
        report_main([str(tmp_path)])
    assert exit_.value.code == 2


def test_another_recipe_is_refused(run, capfd) -> None:
    before = digests(run)
    with pytest.raises(SystemExit) as exit_:
        main(["--size", "tiny", "--output", str(run), "--seed", "5"])
    assert exit_.value.code == 2 and "Traceback" not in capfd.readouterr().err
    assert {name: digests(run)[name] for name in before} == before
