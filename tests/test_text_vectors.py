"""A locked text tower runs once a caption: the same training, the same files under any ranks, and after a kill."""

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from mcl_clip import load
from mcl_clip.artifacts import read_json
from mcl_clip.errors import UserError
from mcl_clip.loading.text_vectors import TextVectors, captions_of, file_of, write_vectors
from mcl_clip.seeds import number_of
from mcl_clip.shards.index import index_sources
from tests.jobs import run_job
from tests.tars import image_bytes, write_tar
from tests.tiny_runs import command, losses
from training.main import main

LOCKS = ("--lock-text", "--lock-text-freeze-layer-norm", "--lock-image", "--lock-image-unlocked-groups", "1")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Where a model stands that has been trained a little."""
    directory = tmp_path_factory.mktemp("base")
    assert main(command(directory, "--epochs", "1")) == 0
    return directory / "runs/run/stage_0/model"


def locked(directory: Path, base: Path, *flags: str) -> list[str]:
    arguments = command(directory, *LOCKS, *flags)
    arguments[arguments.index("--model") + 1] = f"local-dir:{base}"
    return arguments


def cache_of(directory: Path) -> Path:
    (cache,) = (directory / "runs/run/text_vectors").iterdir()
    return cache


@pytest.mark.parametrize("flags", [[], ["--accum-freq", "2", "--batch-size", "8", "--workers", "1"]], ids=["", "accum"])
def test_training_is_the_same_and_the_tower_rests(tmp_path, base, monkeypatch, flags) -> None:
    seen: list[int] = []
    look_up = torch.nn.Embedding.forward  # what every text tower of any open_clip begins with
    monkeypatch.setattr(
        torch.nn.Embedding, "forward", lambda self, tokens: seen.append(len(tokens)) or look_up(self, tokens)
    )
    with_cache, without = tmp_path / "with", tmp_path / "without"
    stages = ("--mcl-stages", "1", *flags)
    assert main(locked(with_cache, base, *stages)) == 0
    assert seen[:4] == [40, 40, 40, 1], "every caption once, and one for the type"
    ran = len(seen)
    assert ran < 10, seen
    assert main(locked(without, base, *stages, "--mcl-no-text-cache")) == 0
    assert len(seen) - ran > 28 and not (without / "runs/run/text_vectors").exists()
    for stage in (0, 1):
        ours = losses(with_cache, stage)
        assert len(ours) > 14 and ours == pytest.approx(losses(without, stage), rel=1e-5)
    told = read_json(cache_of(with_cache) / "manifest.json")
    assert (told["captions"], told["dtype"], told["width"]) == (120, "float32", 16)
    assert set(told["files"]) == {str(file_of(Path(), shard)) for shard in range(3)}
    for name, digest in told["files"].items():
        assert hashlib.sha256((cache_of(with_cache) / name).read_bytes()).hexdigest() == digest


def test_two_ranks_and_a_killed_job_make_the_same_files(tmp_path, base) -> None:
    flags = ("--epochs", "1", "--gather-with-grad")
    one, two, log = tmp_path / "one", tmp_path / "two", tmp_path / "log"
    assert main(locked(one, base, *flags)) == 0
    assert run_job(locked(two, base, *flags, "--batch-size", "8"), log, 2) == [0, 0], log.read_text()
    files = read_json(cache_of(one) / "manifest.json")["files"]
    assert read_json(cache_of(two) / "manifest.json")["files"] == files
    kept = file_of(cache_of(one), 1)
    (cache_of(one) / "manifest.json").unlink()
    file_of(cache_of(one), 2).unlink()
    before = kept.stat().st_ino
    shutil.rmtree(one / "runs/run/stage_0")  # as if it had been killed before it began to train
    assert main(locked(one, base, *flags)) == 0
    assert read_json(cache_of(one) / "manifest.json")["files"] == files and kept.stat().st_ino == before


def test_vectors_are_the_towers_for_every_caption_that_may_be_drawn(tmp_path, base) -> None:
    samples = {"0000": ["a cat", "a dog"], "0001": ["a dog"], "0002": ["the red circle"]}
    members = []
    for key, captions in samples.items():
        members += [(f"{key}.jpg", image_bytes(0, 0, int(key))), (f"{key}.json", json.dumps({"c": captions}).encode())]
    write_tar(tmp_path / "a.tar", members)
    source = index_sources([str(tmp_path / "a.tar")], tmp_path / "index", caption_key="c")
    captions = captions_of(source, 0)
    assert sorted(captions) == ["a cat", "a dog", "the red circle"] and captions == sorted(captions, key=number_of)
    model, _, tokenizer = load(base)
    with torch.no_grad():
        truth = {text: model.encode_text(tokenizer([text]), normalize=True)[0] for text in captions}
    write_vectors(file_of(tmp_path, 0), captions, [torch.stack([truth[text] for text in captions])])
    vectors = pickle.loads(pickle.dumps(TextVectors(tmp_path, 16, torch.float32)))
    found = vectors.of([(0, "a dog"), None, (0, "the red circle"), (0, "a cat")])
    assert torch.equal(found, torch.stack([truth["a dog"], torch.zeros(16), truth["the red circle"], truth["a cat"]]))
    assert vectors.of([None]).shape == (1, 16)
    halves = TextVectors(tmp_path / "halves", 16, torch.bfloat16)
    write_vectors(file_of(halves.directory, 0), ["a cat"], [truth["a cat"][None].bfloat16()])
    assert torch.equal(halves.of([(0, "a cat")])[0], truth["a cat"].bfloat16())
    with pytest.raises(UserError, match="no vector of the caption 'a bird'"):
        vectors.of([(0, "a bird")])
