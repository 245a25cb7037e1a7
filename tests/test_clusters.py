import contextlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

from mcl_clip.clustering import passes
from mcl_clip.clustering.clusters import Clusters, features_path
from mcl_clip.clustering.encoder import default_precision, load_encoder
from mcl_clip.clustering.features import embed
from mcl_clip.clustering.kmeans import assign
from mcl_clip.clustering.pseudo_labels import PseudoLabels
from mcl_clip.clustering.stage import cluster_stage
from mcl_clip.errors import UserError
from mcl_clip.models.stage_model import save_stage_model
from mcl_clip.shards.manifest import Manifest
from tests.clusters import stage_directory
from tests.data import make_index
from tests.tiny_models import TINY, tiny_model
from training.arrows import clusters as arrow
from training.ranks import Ranks
from training.run_directory import RunDirectory

FAILED = {("00001", "000010003"), ("00002", "000020005")}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    return make_index(root, 4, 16, broken_image=[(1, 3)], no_caption=[(2, 5)])


@pytest.fixture
def manifest(data) -> Manifest:
    return Manifest.load(data)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("models")
    return [stage_directory(root / str(seed), "vit", seed) for seed in range(2)]


@pytest.fixture(scope="module")
def chain(data, models, tmp_path_factory) -> list[Clusters]:
    """Clusters of two stages, the second on a reservoir smaller than the data."""
    root, manifest = tmp_path_factory.mktemp("chain"), Manifest.load(data)
    first = cluster_stage(models[0], manifest, root / "0", k=3, batch_size=6)
    second = cluster_stage(
        models[1], manifest, root / "1", k=4, batch_size=6, reservoir=40, previous=[first.directory],
        keep_features=True,
    )  # fmt: skip
    return [first, second]


@contextlib.contextmanager
def at_once():
    """The slow twin of `written_behind`: the work waits for every file."""
    yield lambda function, *arguments: function(*arguments)


@pytest.mark.parametrize("reservoir", [40, 1000])
def test_files_written_behind_the_pass_are_those_that_it_waits_for(manifest, models, tmp_path, monkeypatch, reservoir):
    options = {"k": 3, "batch_size": 6, "reservoir": reservoir, "keep_features": True}
    behind = cluster_stage(models[0], manifest, tmp_path / "behind", **options)
    monkeypatch.setattr(passes, "written_behind", at_once)
    waited = cluster_stage(models[0], manifest, tmp_path / "waited", **options)
    names = sorted(path.relative_to(behind.directory) for path in behind.directory.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(waited.directory) for path in waited.directory.rglob("*") if path.is_file())
    for name in names:
        assert (behind.directory / name).read_bytes() == (waited.directory / name).read_bytes()


def test_precision_is_bf16_where_cuda_multiplies_in_it_and_the_clusters_say_which(monkeypatch, chain):
    assert chain[0].info["settings"]["precision"] == "fp32"
    assert default_precision("cpu") == "fp32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for has_it, wanted in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has_it=has_it: has_it)
        assert (default_precision("cuda:1"), default_precision("cpu")) == (wanted, "fp32")


def features_of(model: Path, manifest: Manifest) -> dict[str, np.ndarray]:
    encoder = load_encoder(model, ("image",), "fp32", "cpu")
    requests = [(shard, np.arange(manifest.shard_size[shard])) for shard in range(manifest.num_shards)]
    found = {}
    for part in embed(encoder, manifest, requests, batch_size=6):
        shard = manifest.open_shard(part.ordinal)
        for row, feature in zip(part.rows, part.features["image"], strict=True):
            found[shard.keys[row]] = feature
    return found


def test_every_sample_has_the_nearest_centroid_and_failed_ones_null(chain, models, manifest):
    for clusters, model in zip(chain, models, strict=True):
        features = features_of(model, manifest)
        failed = set()
        for name in manifest.shard_names:
            rows = clusters.labels_of(name)
            assert sorted(rows.keys) == sorted(manifest.open_shard(int(name)).keys)
            for key, cluster, distance in zip(rows.keys, rows.cluster, rows.distance, strict=True):
                if cluster < 0:
                    failed.add((name, key))
                    assert np.isnan(distance)
                    continue
                apart = np.linalg.norm(features[key] - clusters.centroids["image"], axis=1)
                assert apart[cluster] == pytest.approx(apart.min(), abs=1e-5)
                assert distance == pytest.approx(apart.min(), abs=1e-3)
        assert failed == FAILED


def test_label_files_are_plain_parquet_with_null_clusters(chain):
    table = pq.read_table(chain[0].directory / "labels")
    assert {field.name: str(field.type) for field in table.schema} == {
        "shard": "string", "key": "string", "cluster": "int32", "distance": "float",
    }  # fmt: skip
    null = table.filter(table["cluster"].is_null())
    assert set(zip(null["shard"].to_pylist(), null["key"].to_pylist(), strict=True)) == FAILED


def test_summary_says_what_the_labels_say(chain, manifest):
    for clusters in chain:
        info = clusters.info
        rows = [clusters.labels_of(name) for name in manifest.shard_names]
        cluster = np.concatenate([row.cluster for row in rows])
        distance = np.concatenate([row.distance for row in rows])
        assert info["samples"] == 64 and info["failed"]["count"] == 2
        assert {tuple(sample) for sample in info["failed"]["first"]} == FAILED
        listed = (clusters.directory / "failed.jsonl").read_text().splitlines()
        assert {tuple(json.loads(line).values()) for line in listed} == FAILED
        assert info["sizes"] == np.bincount(cluster[cluster >= 0], minlength=clusters.k).tolist()
        assert info["mean_squared_distance"] == pytest.approx(float(np.nanmean(distance.astype(float) ** 2)))
        place = {(name, key): (c, d) for name, row in zip(manifest.shard_names, rows, strict=True)
                 for key, c, d in zip(row.keys, row.cluster, row.distance, strict=True)}  # fmt: skip
        for label in range(clusters.k):
            own = np.sort(distance[cluster == label])
            assert info["distances"][label]["mean"] == pytest.approx(float(own.mean()), abs=1e-4)
            assert info["distances"][label]["quantiles"]["0.5"] == pytest.approx(
                float(np.quantile(own, 0.5, method="inverted_cdf")), abs=2e-3
            )
            nearest = [place[tuple(sample)] for sample in info["examples"][label]["nearest"]]
            assert [d for _, d in nearest] == own[:12].tolist()
            random = [tuple(sample) for sample in info["examples"][label]["random"]]
            assert len(set(random)) == min(12, len(own)) and all(place[sample][0] == label for sample in random)


def test_fit_uses_all_that_fits_and_at_most_the_reservoir(chain):
    assert chain[0].info["fit"]["image"]["points"] == 62
    assert 4 <= chain[1].info["fit"]["image"]["points"] <= 40
    assert not (chain[1].directory / "reservoir").exists()


def test_kept_features_stand_row_for_row_beside_the_labels(chain, models, manifest):
    features = features_of(models[1], manifest)
    for ordinal, name in enumerate(manifest.shard_names):
        kept = load_file(features_path(chain[1].directory, ordinal))["image"]
        assert kept.dtype == np.float16
        rows = chain[1].labels_of(name)
        for key, cluster, feature in zip(rows.keys, rows.cluster, kept, strict=True):
            expected = features[key] if cluster >= 0 else np.zeros(24)
            np.testing.assert_allclose(feature, expected, atol=1e-3)
    assert not (chain[0].directory / "features").exists()


def test_real_chain_folds_and_a_stage_out_of_its_chain_is_refused(chain, manifest):
    directories = [clusters.directory for clusters in chain]
    labels = PseudoLabels(directories)
    for name in manifest.shard_names:
        keys = manifest.open_shard(int(name)).keys
        first, second = (dict(zip(c.labels_of(name).keys, c.labels_of(name).cluster, strict=True)) for c in chain)
        expected = [None if first[key] < 0 else f"{first[key]}/{second[key]}" for key in keys]
        assert labels.labels_for(name, keys) == expected
    with pytest.raises(UserError, match="--previous"):
        PseudoLabels(directories[1:])


def test_a_finished_directory_is_reused_and_anything_else_refused(chain, models, manifest, tmp_path, monkeypatch):
    out = tmp_path / "clusters"
    shutil.copytree(chain[0].directory, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    monkeypatch.setattr(passes, "embed", None)
    assert cluster_stage(models[0], manifest, out, k=3, batch_size=6).hash == chain[0].hash
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(UserError, match=r"another k \(3, not 4\)"):
        cluster_stage(models[0], manifest, out, k=4, batch_size=6)
    with pytest.raises(UserError, match=r"another seed \(0, not 1\)"):
        cluster_stage(models[0], manifest, out, k=3, batch_size=6, seed=1)
    with pytest.raises(UserError, match="another model"):
        cluster_stage(models[1], manifest, out, k=3, batch_size=6)
    with pytest.raises(UserError, match="another chain of earlier stages"):
        cluster_stage(models[0], manifest, out, k=3, batch_size=6, previous=[chain[0].directory])
    with pytest.raises(UserError, match="without --mcl-keep-features"):
        cluster_stage(models[0], manifest, out, k=3, batch_size=6, keep_features=True)
    other = Manifest.load(make_index(tmp_path / "other", 2, 16, seed=9))
    with pytest.raises(UserError, match="another --train-data"):
        cluster_stage(models[0], other, out, k=3, batch_size=6)
    with pytest.raises(UserError, match="other data"):
        cluster_stage(models[1], other, tmp_path / "next", k=3, previous=[out])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(UserError, match="holds no clusters"):
        cluster_stage(models[0], manifest, tmp_path / "mine", k=3)


class Killed(Exception):
    pass


@pytest.mark.parametrize("reservoir", [1000, 40])
@pytest.mark.parametrize("phase", ["save_file", "write_labels"])
def test_a_killed_run_resumes_by_shard_and_ends_the_same(models, manifest, tmp_path, monkeypatch, reservoir, phase):
    settings = {"k": 3, "batch_size": 6, "reservoir": reservoir}
    whole = cluster_stage(models[0], manifest, tmp_path / "whole", **settings)
    done, embedded = [], []

    real = getattr(passes, phase)

    def kill_at_third(*args, **kwargs):
        if len(done) == 2:
            raise Killed
        done.append(args)
        return real(*args, **kwargs)

    def record(encoder, manifest, requests, **kwargs):
        return embed(encoder, manifest, (embedded.append(r[0]) or r for r in requests), **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(passes, phase, kill_at_third)
        with pytest.raises(Killed):
            cluster_stage(models[0], manifest, tmp_path / "killed", **settings)
    with pytest.raises(UserError, match="unfinished clusters of another k"):
        cluster_stage(models[0], manifest, tmp_path / "killed", **{**settings, "k": 2})
    with pytest.raises(UserError, match="no finished clusters"):
        Clusters.load(tmp_path / "killed")
    monkeypatch.setattr(passes, "embed", record)
    resumed = cluster_stage(models[0], manifest, tmp_path / "killed", **settings)
    expected = {"save_file": {1000: [2, 3], 40: [2, 3, 0, 1, 2, 3]}, "write_labels": {1000: [], 40: [2, 3]}}
    assert embedded == expected[phase][reservoir]
    assert tree(whole.directory) == tree(resumed.directory)


def tree(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


def test_product_clusters_of_image_and_text(models, manifest, tmp_path):
    clusters = cluster_stage(models[0], manifest, tmp_path / "product", k=2, text_k=3, on="image-text", batch_size=6)
    assert clusters.k == 6 and {tower: len(c) for tower, c in clusters.centroids.items()} == {
        "image": 2,
        "text": 3,
    }
    encoder = load_encoder(models[0], ("image", "text"), "fp32", "cpu")
    requests = [(0, np.arange(manifest.shard_size[0]))]
    part = next(embed(encoder, manifest, requests, batch_size=6))
    image, to_image = assign(part.features["image"], clusters.centroids["image"])
    text, to_text = assign(part.features["text"], clusters.centroids["text"])
    rows = clusters.labels_of("00000")
    assert rows.cluster[part.rows].tolist() == (image * 3 + text).tolist()
    np.testing.assert_allclose(rows.distance[part.rows], np.hypot(to_image, to_text), atol=1e-5)
    on_text = cluster_stage(models[0], manifest, tmp_path / "text", k=3, on="text", batch_size=6)
    assert on_text.labels_of("00000").cluster[part.rows].tolist() == text.tolist()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"k": 100}, "100 clusters cannot be made of 62 samples; lower --mcl-clusters"),
        ({"k": 0}, "--mcl-clusters is 0"),
        ({"k": 3, "reservoir": 0}, "--mcl-reservoir is 0"),
        ({"k": 3, "text_k": 2}, "--mcl-text-clusters needs --mcl-cluster-on image-text"),
        ({"k": 3, "on": "audio"}, "--mcl-cluster-on is 'audio'"),
        ({"k": 3, "precision": "int8"}, "--precision is 'int8'"),
    ],
)
def test_settings_that_cannot_work_are_refused(models, manifest, tmp_path, options, reason):
    with pytest.raises(UserError, match=reason):
        cluster_stage(models[0], manifest, tmp_path / "clusters", **options)


def test_too_many_clusters_leave_a_clean_place(models, manifest, tmp_path):
    with pytest.raises(UserError, match="100 clusters"):
        cluster_stage(models[0], manifest, tmp_path / "clusters", k=100)
    assert cluster_stage(models[0], manifest, tmp_path / "clusters", k=3).k == 3


@pytest.mark.parametrize("left", [["identity.json"], ["centroids.safetensors", "identity.json"]])
def test_a_run_keeps_what_was_embedded_when_its_clustering_fails(tmp_path, monkeypatch, left):
    recipe = SimpleNamespace(
        stages=[SimpleNamespace(labels=None, clusters=3)] * 2,
        clustering=SimpleNamespace(text_clusters=None, cluster_on="image", reservoir=10, keep_features=False),
        optimization=SimpleNamespace(precision="fp32"),
        data=SimpleNamespace(workers=0),
        seed=0,
    )
    job = SimpleNamespace(recipe=recipe, directory=RunDirectory(tmp_path), source=None, ranks=Ranks())
    out = job.directory.clusters(0)

    def fail(*_, **__):
        out.mkdir(parents=True)
        for name in left:
            (out / name).touch()
        raise UserError("/data/00017.tar cannot be read (Input/output error)")

    monkeypatch.setattr(arrow, "cluster_stage", fail)
    with pytest.raises(UserError, match="00017"):
        arrow.cluster(job, 0)
    assert out.exists() == (len(left) > 1)


@pytest.mark.parametrize("reservoir", [1000, 40])
def test_a_model_that_gives_nan_is_refused(manifest, tmp_path, reservoir):
    model = tiny_model("vit", 0)
    model.visual.proj.data[0, 0] = float("nan")
    save_stage_model(model, tmp_path / "model", model_cfg=TINY["vit"], preprocess_cfg=model.visual.preprocess_cfg)
    with pytest.raises(UserError, match=r"NaN.*--precision fp32"):
        cluster_stage(tmp_path / "model", manifest, tmp_path / "clusters", k=3, reservoir=reservoir)


def test_data_without_one_sound_sample_is_refused(models, tmp_path):
    broken = [(0, sample) for sample in range(4)]
    manifest = Manifest.load(make_index(tmp_path, 1, 4, broken_image=broken))
    with pytest.raises(UserError, match="every sample failed"):
        cluster_stage(models[0], manifest, tmp_path / "clusters", k=2)
