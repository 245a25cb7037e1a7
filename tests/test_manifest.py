"""Manifests: what they promise, and what they refuse to open."""

import json
import pickle
import shutil

import numpy as np
import pytest

from mcl_clip.errors import UserError
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.manifest import Manifest, write_manifest
from tests.tars import write_shards


@pytest.fixture
def manifest(tmp_path):
    paths = write_shards(tmp_path / "data", 3, 4, no_caption=[(1, 0)])
    return index_sources(paths, tmp_path / "index")


def test_numbers_per_shard(manifest):
    assert (manifest.kind, manifest.num_shards, manifest.num_samples, manifest.num_failed) == (
        "source",
        3,
        11,
        1,
    )
    assert manifest.shard_size.dtype == manifest.shard_label.dtype == np.int32
    assert manifest.shard_size.tolist() == [4, 3, 4]
    assert manifest.shard_label.tolist() == [0, 0, 0]
    assert manifest.label_paths == [""]
    assert manifest.shard_names == manifest.source_names == ["00000", "00001", "00002"]


def test_a_pickled_manifest_reads_the_same(manifest):
    manifest.open_shard(0).read_image(0)
    copy = pickle.loads(pickle.dumps(manifest))
    assert copy.open_shard(2).read_caption(1) == manifest.open_shard(2).read_caption(1)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "is not of"),
        ({"format": "mcl_clip clusters"}, "is not of"),
        ({"num_samples": 12}, "was changed"),
        ({"hash": "0" * 64}, "was changed"),
        ({"label_paths": ["0"]}, "was changed"),
    ],
)
def test_another_manifest_is_refused(manifest, change, reason):
    path = manifest.directory / "manifest.json"
    path.write_text(json.dumps({**manifest.info, **change}))
    with pytest.raises(UserError, match=reason):
        Manifest.load(manifest.directory)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3"])
def test_what_is_not_a_manifest_is_refused(manifest, text):
    (manifest.directory / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json"):
        Manifest.load(manifest.directory)


def test_an_unfinished_directory_is_refused(tmp_path):
    with pytest.raises(UserError, match="no finished index"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("name", ["shards", "tars"])
def test_changed_tables_are_refused(manifest, name, tmp_path):
    path = manifest.directory / f"{name}.arrow"
    other = index_sources(write_shards(tmp_path / "other", 3, 5), tmp_path / "other-index")
    shutil.copy(other.directory / f"{name}.arrow", path)
    with pytest.raises(UserError, match=rf"{name}\.arrow was changed"):
        Manifest.load(manifest.directory).open_shard(0).read_image(0)
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=rf"{name}\.arrow cannot be read"):
        Manifest.load(manifest.directory).open_shard(0).read_image(0)


def test_offsets_of_something_else_are_refused(manifest):
    offsets = manifest.directory / "offsets/00/000"
    shutil.copy(offsets / "00000000.arrow", offsets / "00000001.arrow")
    with pytest.raises(UserError, match=r"00000001\.arrow"):
        Manifest.load(manifest.directory).open_shard(1)
    (offsets / "00000002.arrow").write_bytes(b"ARROW1\0\0")
    with pytest.raises(UserError, match=r"00000002\.arrow cannot be read"):
        Manifest.load(manifest.directory).open_shard(2)


def test_the_hash_is_of_the_content_alone(tmp_path):
    def write(name, samples=5, made_from=None, path="0.tar"):
        shards = {"name": ["0"], "label": [0], "samples": [samples], "failed": [0], "bytes": [9]}
        tars = {"path": [path], "bytes": [10], "rest_crc32": [1]}
        shards["rows_sha256"] = ["00"]
        return write_manifest(tmp_path / name, "source", shards=shards, tars=tars, made_from=made_from).hash

    assert write("a") == write("b", made_from={"x": 1}) == write("c", path="/d/0.tar") != write("d", samples=6)
