"""Scores between epochs: equal to open_clip's, and no obstacle to SIGTERM."""

import io
import json
import tarfile
import time

import numpy as np
import pytest
import torch
from open_clip_train.train import get_clip_metrics
from PIL import Image

import mcl_clip
from mcl_clip.errors import UserError
from mcl_clip.models.stage_model import model_hash
from mcl_clip.shards.index import index_sources
from tests.jobs import finish, patience, start, wait_for
from tests.tars import image_bytes, write_shards
from tests.tiny_runs import command
from training import preemption, validation
from training.main import main
from training.validation import Validation, _Pairs, check_imagenet, retrieval_scores


def features(count):
    """Image and text features that agree somewhat."""
    own, common = torch.randn(3, count, 8, generator=torch.Generator().manual_seed(0)).split([2, 1])
    return torch.nn.functional.normalize(own + common, dim=-1)


@pytest.mark.parametrize("block", [3, 16, 100])
def test_retrieval_is_open_clips_and_a_double_loops(block):
    images, texts = features(37)
    scores = retrieval_scores(images, texts, block)
    theirs = get_clip_metrics(images, texts, torch.tensor(1.0))
    assert scores == pytest.approx({name: float(theirs[name]) for name in scores})
    ranks = [1 + sum(bool(u @ v > u @ own) for v in texts) for u, own in zip(images, texts, strict=True)]
    assert scores["image_to_text_mean_rank"] == np.mean(ranks)
    assert scores["image_to_text_R@5"] == np.mean([rank <= 5 for rank in ranks])


def test_equal_features_are_no_hits():
    scores = retrieval_scores(torch.ones(20, 4), torch.ones(20, 4))
    assert scores["image_to_text_R@10"] == 0 and scores["text_to_image_median_rank"] == 20


def test_imagenet_is_scored_with_open_clips_prompts(tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "IMAGENET_CLASSNAMES", ["cat", "dog", "ship", "tree", "car", "sun"])
    monkeypatch.setattr(validation, "OPENAI_IMAGENET_TEMPLATES", [lambda name: f"a photo of a {name}."])
    for number in range(6):
        folder = tmp_path / f"imagenet/n{number}"
        folder.mkdir(parents=True)
        for image in range(2):
            (folder / f"{image}.jpg").write_bytes(image_bytes(number, image))
    for rubbish in (".ipynb_checkpoints/0.jpg", "n3/.ipynb_checkpoints/0.jpg", "n5/._0.jpg"):
        (tmp_path / "imagenet" / rubbish).parent.mkdir(exist_ok=True)
        (tmp_path / "imagenet" / rubbish).write_bytes(b"")
    (tmp_path / "imagenet/n2/broken.jpg").write_bytes(image_bytes(2)[:100])
    flags = ("--imagenet-val", f"{tmp_path}/imagenet", "--zeroshot-frequency", "2", "--epochs", "3")
    assert main(command(tmp_path, *flags)) == 0
    rows = [json.loads(line) for line in (tmp_path / "runs/run/stage_0/validation.jsonl").open()]
    assert [row["epoch"] for row in rows] == [2, 3]
    assert "1 of 13 images cannot be read" in (tmp_path / "runs/run/out.log").read_text()
    for row in rows:
        top1, top5 = row["imagenet-zeroshot-val-top1"], row["imagenet-zeroshot-val-top5"]
        assert (12 * top1) % 1 == (12 * top5) % 1 == 0 and 0 <= top1 <= top5 <= 1
    (tmp_path / "imagenet/n6").mkdir()
    with pytest.raises(UserError, match="7 class folders, not 6"):
        check_imagenet(f"{tmp_path}/imagenet")


@pytest.mark.parametrize("name", ["{}", "tench {}"])
def test_imagenets_classes_are_known_by_wordnet_ids_alone(tmp_path, name):
    for number in range(1000):
        (tmp_path / name.format(number)).mkdir()
    with pytest.raises(UserError, match=r"0 is no WordNet id .* mcl-zero-shot"):
        check_imagenet(str(tmp_path))


def hold_the_first_validation(rank):
    original = Validation.run

    def run(self, built, completed, epochs):
        if completed == 1:
            open("validating", "w").close()
            time.sleep(60)
        return original(self, built, completed, epochs)

    Validation.run = run


def test_sigterm_in_a_validation_saves_and_the_resumed_run_makes_up_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_shards(tmp_path / "held-out", 1, 20, seed=9, size=24)
    arguments = command(tmp_path, "--val-data", f"{tmp_path}/held-out", "--save-frequency", "0")
    process = start(arguments, tmp_path / "log", before=hold_the_first_validation)
    wait_for(lambda: (tmp_path / "validating").exists() or not process.is_alive())
    begun = time.monotonic()
    process.terminate()
    assert finish(process) == preemption.STATUS and time.monotonic() - begun < patience(30), (
        tmp_path / "log"
    ).read_text()
    run = tmp_path / "runs/run"
    assert [path.name for path in (run / "stage_0/checkpoints").iterdir()] == ["step_00000008.pt"]
    assert main(arguments) == 0
    rows = [json.loads(line) for line in (run / "stage_0/validation.jsonl").open()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert main([*arguments, "--name", "whole"]) == 0
    whole = [json.loads(line) for line in (tmp_path / "runs/whole/stage_0/validation.jsonl").open()]
    assert rows == whole and model_hash(run / "stage_0/model") == model_hash(tmp_path / "runs/whole/stage_0/model")


@pytest.mark.parametrize("error", [UserError("tar is gone"), KeyError("a bug")])
def test_an_epoch_outlives_a_validation_that_fails(tmp_path, monkeypatch, error):
    write_shards(tmp_path / "held-out", 1, 20, seed=9, size=24)
    arguments = command(tmp_path, "--val-data", f"{tmp_path}/held-out", "--epochs", "1")

    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Validation, "run", fail)
        if isinstance(error, UserError):
            assert main(arguments) == 2
        else:
            with pytest.raises(KeyError):
                main(arguments)
    assert [path.name for path in (tmp_path / "runs/run/stage_0/checkpoints").iterdir()] == ["step_00000008.pt"]
    assert main(arguments) == 0
    assert len((tmp_path / "runs/run/stage_0/validation.jsonl").read_text().splitlines()) == 1


def test_held_out_tars_that_are_gone_are_said_in_one_line(tmp_path):
    write_shards(tmp_path / "tars", 1, 4, size=24)
    pairs = _Pairs(index_sources([f"{tmp_path}/tars/00000.tar"], tmp_path / "index"), None, None)
    (tmp_path / "tars/00000.tar").unlink()
    assert isinstance(pairs[0], UserError)


def scores_of(directory, tars):
    """Retrieval scores of a finished model, from open_clip's own transform, tokenizer and embeddings."""
    model, preprocess, tokenizer = mcl_clip.load(directory)
    images, captions = [], []
    for tar in tars:
        with tarfile.open(tar) as archive:
            files = {member.name: archive.extractfile(member).read() for member in archive}
        for name in sorted(files):
            if name.endswith(".txt"):
                captions.append(files[name].decode())
                images.append(preprocess(Image.open(io.BytesIO(files[name.replace(".txt", ".jpg")]))))
    with torch.no_grad():
        return retrieval_scores(
            model.encode_image(torch.stack(images), normalize=True),
            model.encode_text(tokenizer(captions), normalize=True),
        )


def test_the_kept_base_and_the_fused_model_are_scored_once(tmp_path):
    tars = write_shards(tmp_path / "held-out", 1, 20, seed=9, size=24)
    assert main(command(tmp_path, "--name", "base", "--epochs", "1")) == 0
    base = f"local-dir:{tmp_path}/runs/base/stage_0/model"
    arguments = command(tmp_path, "--model", base, "--mcl-base", "auto", "--mcl-stages", "1", "--epochs", "1")
    arguments += ["--val-data", f"{tmp_path}/held-out"]
    assert main(arguments) == 0
    run = tmp_path / "runs/run"
    kept, fused = run / "stage_0/validation.jsonl", run / "fused_validation.jsonl"
    for file, model in ((kept, run / "stage_0/model"), (fused, run / "fused")):
        (row,) = map(json.loads, file.open())
        wanted = scores_of(model, tars)
        assert {name: row[name] for name in wanted} == pytest.approx(wanted, abs=0.051), "one place of 20 may change"
    (row,) = map(json.loads, kept.open())
    assert (row["stage"], row["epoch"], row["num_samples"]) == (0, 0, 20)
    before = kept.read_text(), fused.read_text()
    assert main(arguments) == 0
    assert (kept.read_text(), fused.read_text()) == before
    fused.unlink()
    assert main(arguments) == 0, "a run that was killed before it scored the fused model makes up for it"
    assert fused.read_text() == before[1]
