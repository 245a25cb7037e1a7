import json
from pathlib import Path

import pytest
import torch

from mcl_clip.clustering.clusters import Clusters
from mcl_clip.clustering.information import agreement
from mcl_clip.clustering.stage import cluster_stage
from mcl_clip.errors import UserError
from mcl_clip.shards.manifest import Manifest
from tests.clusters import stage_directory
from tests.data import make_index
from tests.distributed import run_ranks, world_of
from tests.jobs import run_job
from tests.tars import write_shards
from training.cluster import main

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_index(tmp_path_factory.mktemp("data"), 5, 12, broken_image=[(1, 3)], no_caption=[(2, 5)], size=64)


def cluster(rank: int, world_size: int, model: Path, data: Path, out: Path, options: dict) -> str:
    try:
        return cluster_stage(
            model,
            Manifest.load(data),
            out,
            batch_size=5,
            world=world_of(rank, world_size),
            **options,
        ).hash
    except UserError as error:
        return str(error)


def tree(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(("kind", "reservoir", "world_size"), [("vit", 1000, 2), ("resnet", 30, 3)])
def test_every_byte_is_the_same_under_any_ranks_workers_and_threads(data, tmp_path, kind, reservoir, world_size):
    model = stage_directory(tmp_path / "model", kind)
    options = {"k": 3, "reservoir": reservoir, "keep_features": True}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        alone = cluster_stage(model, Manifest.load(data), tmp_path / "1", batch_size=5, workers=2, **options)
    finally:
        torch.set_num_threads(threads)
    hashes = run_ranks(cluster, world_size, model, data, tmp_path / "ranks", options)
    assert hashes == [alone.hash] * world_size
    assert tree(tmp_path / "ranks") == tree(alone.directory)


def test_a_user_error_of_one_rank_is_raised_on_all(tmp_path):
    manifest = make_index(tmp_path, 4, 6)
    tar = tmp_path / "tars" / "00001.tar"
    tar.write_bytes(tar.read_bytes()[:1024])
    model = stage_directory(tmp_path / "model")
    messages = run_ranks(cluster, 2, model, manifest, tmp_path / "clusters", {"k": 2})
    assert len(set(messages)) == 1 and "00001.tar has 1024 bytes" in messages[0]
    assert not list((tmp_path / "clusters").glob(".error*"))


def test_other_precision_or_batch_size_agrees_by_adjusted_rand_index(data, tmp_path):
    model = stage_directory(tmp_path / "model")
    manifest = Manifest.load(data)
    exact = cluster_stage(model, manifest, tmp_path / "fp32", k=3, batch_size=5)
    other = cluster_stage(model, manifest, tmp_path / "fp32-7", k=3, batch_size=7)
    half = cluster_stage(model, manifest, tmp_path / "bf16", k=3, precision="bf16")
    assert exact.hash != other.hash and exact.hash != half.hash
    assert agreement(exact.directory, other.directory) > 0.99
    assert agreement(exact.directory, half.directory) > 0.8


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("tiny")
    write_shards(root / "tars", 2, 4)
    return stage_directory(root / "model"), root / "tars"


def two_ranks(log: Path, *arguments: object) -> tuple[list[int], str]:
    """Exit statuses of the command on two ranks, and what they said."""
    words = [*map(str, arguments), "--device", "cpu"]
    return run_job(words, log, 2, module="training.cluster"), log.read_text()


def alone(*arguments: object) -> int:
    return main([*map(str, arguments), "--device", "cpu"])


def test_the_command_alone_and_on_two_ranks(tmp_path, capsys):
    write_shards(tmp_path / "tars", 3, 10)
    model = stage_directory(tmp_path / "model")
    common = [model, "--train-data", tmp_path / "tars", "--mcl-clusters", 2, "--batch-size", 4]
    assert alone(*common, "--workers", 0, "--output", tmp_path / "alone") == 0
    assert "30 samples in 2 clusters" in capsys.readouterr().out
    compared = [*common, "--workers", 1, "--output", tmp_path / "both", "--compare", tmp_path / "alone"]
    status, said = two_ranks(tmp_path / "log", *compared)
    assert (status, "adjusted Rand index 1.0000" in said) == ([0, 0], True), said
    assert Clusters.load(tmp_path / "both").hash == Clusters.load(tmp_path / "alone").hash
    assert alone(*common, "--output", tmp_path / "next", "--previous", tmp_path / "alone") == 0
    assert "with stage 0: normalized mutual information 1.000, 0.00 bits new" in capsys.readouterr().out
    assert json.loads((tmp_path / "next" / "clusters.json").read_text())["previous"]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"--seed": -1}, "--seed is -1"),
        ({"--workers": -1}, "--workers is -1"),
        ({"--mcl-text-clusters": -2, "--mcl-cluster-on": "image-text"}, "--mcl-text-clusters is -2"),
        ({"--batch-size": 0}, "the batch size is 0"),
        ({"--device": "quantum"}, "--device is 'quantum'"),
        ({"--device": "cuda"}, "PyTorch sees no GPU"),
        ({"--output": "{data}/00000.tar"}, "is a file"),
        ({"--train-data": "{data}/nothing-*.tar"}, "nothing-"),
        ({"--previous": "{data}"}, "no finished clusters"),
        ({"--compare": "{data}/nowhere"}, "no finished clusters"),
        ({"model": "{data}"}, "not a stage directory"),
    ],
)
def test_bad_input_is_one_line_and_writes_no_clusters(tiny, tmp_path, capsys, flags, reason):
    if flags.get("--device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    model, data = tiny
    wanted = {"model": model, "--train-data": data, "--output": tmp_path / "out", "--workers": 0, "--device": "cpu"}
    wanted |= {name: str(value).format(data=data) for name, value in flags.items()}
    positional = str(wanted.pop("model"))
    assert main([positional, *(f"{name}={value}" for name, value in wanted.items())]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and reason in errors[0]
    assert not (tmp_path / "out" / "clusters.json").exists()


def test_clusters_of_other_data_are_refused_before_these_are_made(tiny, tmp_path, capsys):
    model, data = tiny
    write_shards(tmp_path / "tars", 2, 10)
    common = [model, "--mcl-clusters", 2, "--workers", 0]
    assert alone(*common, "--train-data", tmp_path / "tars", "--output", tmp_path / "other") == 0
    assert alone(*common, "--train-data", data, "--output", tmp_path / "out", "--compare", tmp_path / "other") == 2
    assert f"--compare {tmp_path}/other was made from other data" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_says_a_mistake_in_one_line(tmp_path, capsys):
    write_shards(tmp_path / "tars", 2, 4)
    model = stage_directory(tmp_path / "model")
    common = [model, "--train-data", tmp_path / "tars", "--mcl-clusters", 9, "--workers", 0]
    assert alone(*common, "--output", tmp_path / "alone") == 2
    message = "error: 9 clusters cannot be made of 8 samples; lower --mcl-clusters"
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")] == [message]
    status, said = two_ranks(tmp_path / "log", *common, "--output", tmp_path / "ranks")
    assert status == [2, 2] and said.count(message) == 1
