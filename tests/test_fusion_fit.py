"""Fitted weights: the loss in plain loops, what each stage can tell, and the whole way from tars to a saved model."""

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import mcl_clip
from mcl_clip.clustering.clusters import Clusters
from mcl_clip.errors import UserError
from mcl_clip.fusion.files import read_fused_config
from mcl_clip.fusion.fit import FLOOR, fit_weights
from mcl_clip.fusion.fit_pairs import fit_fusion
from mcl_clip.fusion.load import fuse
from mcl_clip.models.stage_model import model_hash
from mcl_clip.shards.manifest import Manifest
from tests.clusters import stage_directory, write_clusters
from tests.data import make_index
from tests.tars import write_shards
from tests.test_fusion_files import vit
from tests.tiny_models import tiny_images
from tests.tiny_runs import command
from training.fuse import main
from training.main import main as train


def told(count, values, noise, seed):
    """Unit embeddings of images and texts that agree on `values` and on nothing else."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(int(max(values)) + 1, 16, generator=generator)
    both = [directions[values] + noise * torch.randn(count, 16, generator=generator) for _ in "it"]
    return [F.normalize(each, dim=1) for each in both]


def made(count=96):
    """Stage 0 sees the first value (4 kinds), stage 1 the second (8 kinds), stage 2 nothing; labels are the first."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(4, size=count), rng.integers(8, size=count)
    stages = [told(count, first, 1.0, 1), told(count, second, 1.0, 2), told(count, np.zeros(count, int), 9.0, 3)]
    images, texts = zip(*stages, strict=True)
    return images, texts, [f"{a} {b}" for a, b in zip(first, second, strict=True)], first


def slow_loss(images, texts, captions, labels, weights):
    """Straight from the equation, a pair at a time."""
    total = count = 0
    for i in range(len(captions)):
        others = [j for j in range(len(captions)) if labels[j] == labels[i] and captions[j] != captions[i]]

        def score(a, b):
            return sum(w * float(u[a] @ v[b]) for w, u, v in zip(weights, images, texts, strict=True))

        own = score(i, i)
        forth = math.log(math.exp(own) + sum(math.exp(score(i, j)) for j in others)) - own
        back = math.log(math.exp(own) + sum(math.exp(score(j, i)) for j in others)) - own
        total, count = total + (forth + back) / 2, count + 1
    return total / count


def test_the_loss_is_the_least_of_the_equations():
    data = made(40)
    fit = fit_weights(*data)
    losses = {scale: slow_loss(*data, [scale * weight for weight in fit.weights]) for scale in np.geomspace(1, 200, 40)}
    best = min(losses, key=losses.get)
    assert fit.loss_after == pytest.approx(losses[best], rel=5e-3)
    for stage in range(3):
        for factor in (0.5, 2.0):
            moved = [best * weight * (factor if s == stage else 1) for s, weight in enumerate(fit.weights)]
            assert slow_loss(*data, moved) >= losses[best] * 0.999
    equal = min(slow_loss(*data, [scale / 3] * 3) for scale in np.geomspace(1, 200, 40))
    assert fit.loss_before == pytest.approx(equal, rel=5e-3) and fit.loss_after < fit.loss_before


def test_the_stage_that_tells_a_labels_members_apart_gets_the_weight():
    images, texts, captions, first = made()
    fit = fit_weights(images, texts, captions, first)
    assert fit.weights[1] > 0.8 and sum(fit.weights) == pytest.approx(1) and min(fit.weights) >= FLOOR / 2
    anywhere = fit_weights(images, texts, captions, [0] * len(captions))
    assert anywhere.weights[0] > 2 * fit.weights[0] and (fit.labels, anywhere.labels) == (4, 1)
    again = fit_weights(images, texts, captions, first)
    assert again == fit


def test_more_pairs_of_a_label_than_a_block_and_fewer_pairs_than_stages(monkeypatch):
    images, texts, captions, first = made()
    monkeypatch.setattr("mcl_clip.fusion.fit.BLOCK", 8)
    assert fit_weights(images, texts, captions, first).weights[1] > 0.6
    few = slice(0, 3)
    with pytest.raises(UserError, match="too few for 3 stages"):
        fit_weights([u[few] for u in images], [v[few] for v in texts], captions[:3], first[:3])
    with pytest.raises(UserError, match="0 pairs with negatives"):
        fit_weights(images, texts, ["the same"] * 96, first)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three stages as a run leaves them, the first two with clusters, and pairs set apart."""
    root = tmp_path_factory.mktemp("run")
    for stage in range(3):
        stage_directory(root / f"stage_{stage}/model", seed=stage)
        if stage < 2:
            hash_ = model_hash(root / f"stage_{stage}/model")
            write_clusters(root / f"stage_{stage}/clusters", {"a": {}}, k=24, model_hash=hash_)
    write_shards(root / "apart", 2, 40)
    return root


def fused_with(run, *arguments):
    stages = [str(run / f"stage_{stage}") for stage in range(3)]
    return main([*stages, "--fusion", "fitted", "--fit-on", str(run / "apart"), *arguments])


def test_from_tars_to_a_model_that_loads_bit_exactly(run, tmp_path, capsys):
    assert fused_with(run, "--output", str(tmp_path / "fused")) == 0
    said = capsys.readouterr().out
    config = read_fused_config(tmp_path / "fused")
    fit = config["card"]["fit"]
    assert config["fusion"] == "fitted" and sum(config["weights"]) == pytest.approx(1)
    assert 6 < fit["pairs"] <= 80 and fit["pseudo_labels"] > 1 and fit["loss_fitted"] <= fit["loss_equal_weights"]
    assert fit["on"].endswith("apart") and str(run) not in json.dumps(config)
    assert (
        f"{fit['loss_fitted']:.4f}" in said
        and f"{fit['loss_fitted']:.4f}" in (tmp_path / "fused/README.md").read_text()
    )
    model, _, _ = mcl_clip.load(tmp_path / "fused")
    assert model.weights == config["weights"]
    expected = fit_fusion(
        fuse([run / f"stage_{stage}" for stage in range(3)]),
        Manifest.load(make_index_of(run, tmp_path)),
        named="x",
        clusters=[Clusters.load(run / f"stage_{stage}/clusters") for stage in range(2)],
    )
    images = tiny_images(vit(1), 3)
    with torch.no_grad():
        assert torch.equal(model.encode_image(images), expected.encode_image(images))
        part = model.subset([0, 2])
        shares = np.array([model.weights[0], model.weights[2]]) / (model.weights[0] + model.weights[2])
        raw = model.stage_embeddings(image=images)
        joined = [F.normalize(raw[s], dim=1) * share**0.5 for s, share in zip((0, 2), shares, strict=True)]
        assert torch.allclose(part.encode_image(images), torch.cat(joined, 1), atol=1e-6)


def make_index_of(run, place):
    from mcl_clip.shards.index import index_sources

    return index_sources(sorted(map(str, (run / "apart").glob("*.tar"))), place / "index").directory


def test_the_sample_is_bounded_and_the_same_whatever_the_workers(tmp_path):
    index = make_index(tmp_path / "data", 3, 30)
    model = fuse([stage_directory(tmp_path / str(seed), seed=seed) for seed in (1, 2)])
    fits = [
        fit_fusion(model, Manifest.load(index), named="x", pairs=24, seed=seed, workers=workers, batch_size=7)
        for seed, workers in ((0, 0), (0, 1), (1, 0))
    ]
    assert fits[0].weights == fits[1].weights != fits[2].weights
    assert all(4 < fit.card["fit"]["pairs"] <= 24 for fit in fits)


def test_mistakes_are_one_line(run, tmp_path, capsys):
    for arguments, reason in [
        (["--weights", "1", "2", "3"], "finds its own"),
        (["--split"], "leave one out"),
        (["--fit-pairs", "0"], "--fit-pairs"),
        (["--fit-pairs", "3"], "too few"),
        (["--fit-on", str(tmp_path / "none")], "none"),
    ]:
        with pytest.raises(SystemExit) as exit_:
            fused_with(run, "--output", str(tmp_path / "out"), *arguments)
        error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
        assert exit_.value.code == 2 and len(error) == 1 and reason in error[0]
        assert not (tmp_path / "out").exists()
    for arguments, reason in [
        (["--fusion", "fitted"], "--fit-on"),
        (["--fit-on", str(run / "apart")], "belongs to --fusion fitted"),
    ]:
        with pytest.raises(SystemExit):
            main([str(run / "stage_0"), *arguments, "--output", str(tmp_path / "out")])
        assert reason in capsys.readouterr().err
    with pytest.raises(UserError, match="needs pairs to fit"):
        mcl_clip.load(f"{run / 'stage_0'},{run / 'stage_1'}", fusion="fitted")


def test_a_run_fits_on_its_val_data(tmp_path, capsys):
    write_shards(tmp_path / "apart", 1, 40, seed=5)
    flags = ["--epochs", "1", "--mcl-stages", "1", "--mcl-clusters", "2", "--mcl-fusion", "fitted"]
    assert train(command(tmp_path, *flags)) == 2
    assert "--mcl-fusion fitted needs --val-data" in capsys.readouterr().err
    assert train(command(tmp_path, *flags, "--val-data", str(tmp_path / "apart"))) == 0
    model, _, _ = mcl_clip.load(tmp_path / "runs/run/fused")
    fit, run = model.card["fit"], tmp_path / "runs/run"
    assert model.fusion == "fitted" and 4 < fit["pairs"] <= 40 and fit["pseudo_labels"] == 2
    again = fit_fusion(
        fuse([run / "stage_0", run / "stage_1"]),
        Manifest.load(run / "validation"),
        named="x",
        clusters=[Clusters.load(run / "stage_0/clusters")],
    )
    assert again.weights == model.weights and model.card["made_from"]["fit_on"] == fit["data"]
