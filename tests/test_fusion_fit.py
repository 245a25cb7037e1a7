"""Fitted weights: the loss in plain loops, what each stage can tell, and the whole way from tars to a saved model."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml

import mcl_clip
from eval.rows import row_embedding, rows_of
from mcl_clip.clustering.clusters import Clusters
from mcl_clip.errors import UserError
from mcl_clip.fusion.files import read_fused_config, save_fused
from mcl_clip.fusion.fit import COLDEST, FLOOR, fit_weights, num_with_negatives
from mcl_clip.fusion.fit_pairs import fit_fusion
from mcl_clip.fusion.fit_pairs import told as line_of
from mcl_clip.fusion.fit_sample import choose_pairs
from mcl_clip.fusion.fused_model import FusedCLIP
from mcl_clip.fusion.load import fuse
from mcl_clip.loading.augment import eval_transform
from mcl_clip.loading.normalize import Normalize
from mcl_clip.models.stage_model import model_hash
from mcl_clip.shards.manifest import Manifest
from tests.clusters import stage_directory, write_clusters
from tests.data import make_index
from tests.distributed import run_ranks, world_of
from tests.jobs import run_job
from tests.tars import write_shards
from tests.test_fused_model import fused_of, vit
from tests.tiny_models import tiny_images
from tests.tiny_runs import command
from training.fuse import main
from training.main import main as train
from training.step import TrainingStep


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


def test_pairs_told_apart_without_error_leave_the_temperature_bounded():
    perfect = F.normalize(torch.eye(16) / 2 + 1, dim=1)
    blind = F.normalize(torch.ones(16, 16), dim=1)
    data = [perfect, blind], [perfect, blind], [str(number) for number in range(16)], [0] * 16
    fit = fit_weights(*data)
    assert fit.loss_after == pytest.approx(slow_loss(*data, [COLDEST * w for w in fit.weights]), rel=1e-3)
    assert fit.weights[0] > 0.9 and fit.loss_alone[0] < fit.loss_before < fit.loss_alone[1]
    assert fit.loss_alone[1] == pytest.approx(math.log(16))


def test_each_stage_alone_is_told_beside_the_fit():
    images, texts, captions, first = made()
    fit = fit_weights(images, texts, captions, first)
    for stage, loss in enumerate(fit.loss_alone):
        alone = fit_weights(images[stage : stage + 1], texts[stage : stage + 1], captions, first)
        assert loss == pytest.approx(alone.loss_after, rel=1e-6) and alone.weights == (1.0,)
        assert loss >= fit.loss_after
    assert np.argmin(fit.loss_alone) == 1
    assert num_with_negatives(["a", "a", "b", "c", "c"], [0, 0, 0, 1, 1]) == 3


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
        tmp_path / "fit",
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
    save_fused(part.subset([1]), tmp_path / "part")
    assert "the stages fitted, 2 are kept here: their weights are renormalised" in card_of(tmp_path / "part")
    assert "are kept here" not in card_of(tmp_path / "fused")
    assert "Stage 0 is pretrained: it may have seen them" in card_of(tmp_path / "fused")
    again = fused_with(run, "--select", "0", "2", "--output", str(tmp_path / "anew"))
    anew = read_fused_config(tmp_path / "anew")
    assert again == 0 and len(anew["weights"]) == 2 and "stages_kept" not in anew["card"]["fit"]


@torch.no_grad()
def test_scorers_have_a_row_of_the_same_stages_as_published():
    models = [vit(1), vit(2), vit(3)]
    fitted, images = fused_of(*models, fusion="fitted", weights=[0.1, 0.2, 0.7]), tiny_images(vit(1), 3)
    rows = {row.name: row for row in rows_of(fitted)}
    assert list(rows) == ["stage_0", "stage_1", "stage_2", "fused_0-1", "fused_concat", "fused"]
    raw = fitted.stage_embeddings(image=images)
    published = fused_of(*models).encode_image(images, normalize=True)
    assert torch.equal(row_embedding(fitted, rows["fused_concat"], raw), published)
    assert torch.equal(row_embedding(fitted, rows["fused"], raw), fitted.encode_image(images, normalize=True))
    two = fitted.subset([0, 1]).encode_image(images, normalize=True)
    assert torch.allclose(row_embedding(fitted, rows["fused_0-1"], raw), two, atol=1e-6)
    assert "fused_concat" not in [row.name for row in rows_of(fused_of(*models, fusion="mean-cosine"))]


def card_of(directory):
    return (directory / "README.md").read_text()


def make_index_of(run, place):
    from mcl_clip.shards.index import index_sources

    return index_sources(sorted(map(str, (run / "apart").glob("*.tar"))), place / "index").directory


def test_the_sample_is_bounded_and_the_same_whatever_the_workers(tmp_path):
    index = make_index(tmp_path / "data", 3, 30)
    model = fuse([stage_directory(tmp_path / str(seed), seed=seed) for seed in (1, 2)])
    fits = [
        fit_fusion(
            model,
            Manifest.load(index),
            tmp_path / f"fit-{seed}-{workers}",
            named="x",
            pairs=24,
            seed=seed,
            workers=workers,
            batch_size=7,
        )
        for seed, workers in ((0, 0), (0, 1), (1, 0))
    ]
    assert fits[0].weights == fits[1].weights != fits[2].weights
    assert all(4 < fit.card["fit"]["pairs"] <= 24 for fit in fits)


def test_idle_stages_one_cluster_and_too_small_pseudo_labels_are_told(run, tmp_path):
    index = Manifest.load(make_index(tmp_path / "data", 1, 24))
    stages = [run / "stage_0", run / "stage_1", run / "stage_2"]
    one = Clusters.load(write_clusters(tmp_path / "one", {"a": {}}, k=1))
    one.centroids = {"image": one.centroids["image"] + np.zeros((1, 24), np.float32)}
    found = fit_fusion(fuse(stages), index, tmp_path / "1", named="x", clusters=[one])
    assert found.card["fit"]["pseudo_labels"] == 1 and "with one only, negatives came from anywhere" in line_of(found)
    many = Clusters.load(write_clusters(tmp_path / "many", {"a": {}}, k=24))
    embedded = fuse(stages).stage_embeddings(image=torch.stack([picture(index, row) for row in range(24)]))
    many.centroids = {"image": F.normalize(embedded[1], dim=1).detach().numpy()}
    found = fit_fusion(fuse(stages), index, tmp_path / "2", named="x", clusters=[None, many])
    assert found.card["fit"]["clusters_unused"] == [1] and "with one only, negatives came from" in line_of(found)
    idle = FusedCLIP(found.stage_info, "fitted", [0.5, FLOOR, 0.5], found.card)
    assert "stage 1 has almost no weight: mcl-fuse --select the others" in line_of(idle)


def picture(index, row):
    model = vit(1)
    transform = eval_transform(model.visual.preprocess_cfg)
    rows = index.open_shard(0)
    return Normalize(transform.mean, transform.std)(transform(rows.read_image(row))[0][None])[0]


def test_mistakes_are_one_line(run, tmp_path, capsys):
    for arguments, reason in [
        (["--weights", "1", "2", "3"], "finds its own"),
        (["--split"], "leave one out"),
        (["--fit-pairs", "0"], "--fit-pairs"),
        (["--workers", "-1"], "--workers is -1"),
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
    assert "--mcl-fusion fitted needs pairs" in capsys.readouterr().err
    assert train(command(tmp_path, *flags, "--val-data", str(tmp_path / "apart"))) == 0
    model, _, _ = mcl_clip.load(tmp_path / "runs/run/fused")
    fit, run = model.card["fit"], tmp_path / "runs/run"
    assert model.fusion == "fitted" and 4 < fit["pairs"] <= 40 and fit["pseudo_labels"] == 2
    again = fit_fusion(
        fuse([run / "stage_0", run / "stage_1"]),
        Manifest.load(run / "validation"),
        tmp_path / "fit",
        named="x",
        clusters=[Clusters.load(run / "stage_0/clusters")],
    )
    assert again.weights == model.weights and model.card["made_from"]["fit_on"] == fit["data"]


def die(*_, **__):
    raise ZeroDivisionError


def test_a_run_fits_on_what_it_sets_apart_and_trains_on_nothing_of_it(tmp_path, capsys):
    flags = ["--epochs", "1", "--mcl-stages", "1", "--mcl-fusion", "fitted", "--mcl-fit-share", "0.3"]
    assert train(command(tmp_path, *flags, "--mcl-fit-share", "0.01")) == 2
    assert "--mcl-fit-share (0.01 of the groups by caption, seed 0)" in (said := capsys.readouterr().err)
    assert "too few to fit the weights of 2 stages" in said and not (tmp_path / "runs/run").exists()
    seen, step = set(), TrainingStep.__call__

    def watched(self, number, batches):
        seen.update(key for batch in batches for key in batch.keys)
        return step(self, number, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", watched)
        patch.setattr("mcl_clip.fusion.fit_pairs.fit_weights", die)
        with pytest.raises(ZeroDivisionError):
            train(command(tmp_path, *flags))
    run = tmp_path / "runs/run"
    kept = sorted((run / "fit").glob("*.safetensors"))
    assert len(kept) == 3 and not (run / "fused").exists()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mcl_clip.fusion.fit_pairs.embed", die)  # what a killed run has embedded is not embedded again
        assert train(command(tmp_path, *flags)) == 0
    source = Manifest.load(run / "source")
    rows = [source.open_shard(shard) for shard in range(source.num_shards)]
    apart = {"/".join(each.source_of(row)) for each in rows for row in each.apart}
    whole = {"/".join(each.source_of(row)) for each in rows for row in range(len(each.table))}
    assert seen == whole - apart and len(apart) == source.num_apart > 20
    model, _, _ = mcl_clip.load(run / "fused")
    fit = model.card["fit"]
    assert fit["set_apart"] == {"samples": len(apart), "by": "0.3 of the groups by caption, seed 0"}
    assert fit["pairs"] <= len(apart) and not fit["stage_0_pretrained"]
    assert f"{len(apart)} samples set apart from all training" in (run / "fused/README.md").read_text()
    assert f"{len(apart)} set apart in whole groups" in (run / "out.log").read_text()
    facts = Clusters.load(run / "stage_0/clusters").info
    assert (facts["apart"], facts["samples"], facts["failed"]["count"]) == (len(apart), len(seen), 0)
    assert yaml.safe_load((run / "recipe.yaml").read_text())["data"]["fit_share"] == 0.3
    stages = [str(run / f"stage_{stage}") for stage in range(2)]
    assert main([*stages, "--fusion", "fitted", "--fit-on", str(run / "source"), "--output", str(tmp_path / "o")]) == 0
    assert mcl_clip.load(tmp_path / "o")[0].weights == model.weights
    assert train(command(tmp_path, *flags)) == 0 and not (run / "fit").exists()
    assert train(command(tmp_path, *flags, "--mcl-fit-group", "artist")) == 2
    assert "fit_group None -> artist" in capsys.readouterr().err


def _fit_rank(rank, world_size, stages, index, work, clusters):
    if world_size > 1:
        torch.set_num_threads(1 + rank)
    model = fit_fusion(
        fuse(stages), Manifest.load(index), Path(work), named="x", clusters=[Clusters.load(clusters)], batch_size=7,
        world=world_of(rank, world_size) if world_size > 1 else None,
    )  # fmt: skip
    return model.weights, model.card["fit"]


def test_ranks_share_the_pairs_and_find_the_same_bits(run, tmp_path):
    index, stages = make_index(tmp_path / "data", 5, 20), [str(run / "stage_0"), str(run / "stage_1")]
    arguments = (stages, str(index))
    alone = _fit_rank(0, 1, *arguments, str(tmp_path / "alone"), str(run / "stage_0/clusters"))
    shared = run_ranks(_fit_rank, 3, *arguments, str(tmp_path / "shared"), str(run / "stage_0/clusters"))
    assert shared == [alone] * 3
    kept = sorted((tmp_path / "alone").glob("*.safetensors"))
    assert len(kept) == 5
    kept[2].unlink()
    inodes = [file.stat().st_ino for file in kept if file != kept[2]]
    assert _fit_rank(0, 1, *arguments, str(tmp_path / "alone"), str(run / "stage_0/clusters")) == alone
    assert [file.stat().st_ino for file in kept if file != kept[2]] == inodes and kept[2].exists()


def test_two_ranks_of_a_run_fit_what_one_process_does(tmp_path):
    flags = ["--epochs", "1", "--mcl-stages", "1", "--mcl-fusion", "fitted", "--mcl-fit-share", "0.3"]
    log, run = tmp_path / "log", tmp_path / "runs/run"
    ranks = [*command(tmp_path, *flags), "--batch-size", "8", "--gather-with-grad"]
    assert run_job(ranks, log, 2) == [0, 0], log.read_text()
    model, _, _ = mcl_clip.load(run / "fused")
    alone = fit_fusion(
        fuse([run / "stage_0", run / "stage_1"]),
        Manifest.load(run / "source"),
        tmp_path / "fit",
        named="x",
        clusters=[Clusters.load(run / "stage_0/clusters")],
    )
    assert alone.weights == model.weights and model.card["fit"]["set_apart"]["samples"] > 20


def test_much_data_is_sampled_from_few_shards_and_none_twice(tmp_path):
    index = Manifest.load(make_index(tmp_path / "data", 6, 3))
    index.shard_size = np.array([1000, 0, 5000, 300, 20, 1000])
    for pairs in (1, 100, 128, 500, 3000, 7320, 10**6):
        chosen = choose_pairs(index, pairs, 0)
        assert sum(chosen.values()) == min(pairs, 7320)
        assert all(0 < count <= index.shard_size[shard] for shard, count in chosen.items())
    assert max(choose_pairs(index, 500, 0).values()) <= 128 and len(choose_pairs(index, 100, 0)) == 1
    assert choose_pairs(index, 500, 1) != choose_pairs(index, 500, 0)
