"""Numbered files in folders of at most 1,000, and directories of earlier versions, which had them in one."""

import shutil
from collections import Counter

import pyarrow.parquet as pq
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcl_clip.clustering.pseudo_labels import PseudoLabels
from mcl_clip.loading.text_vectors import TextVectors, file_of, write_vectors
from mcl_clip.numbered import find_numbered, numbered
from mcl_clip.shards.buckets import write_buckets
from mcl_clip.shards.columns import map_table
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.verify import verify
from tests.clusters import write_clusters
from tests.tars import write_shards
from tests.test_buckets import SMALL, HashLabels, contents


@given(st.lists(st.integers(0, 99_999_999), unique=True), st.integers(0, 2_000_000))
def test_every_number_has_a_place_and_no_folder_more_than_1000(numbers, start):
    paths = {numbered("d", number, ".x") for number in (*numbers, *range(start, start + 2500))}
    assert len(paths) == len({*numbers, *range(start, start + 2500)})
    entries = {(path.parent, path) for path in paths} | {(path.parents[1], path.parent) for path in paths}
    assert max(Counter(folder for folder, _ in entries).values()) <= 1000
    assert all(int(path.stem) in {*numbers, *range(start, start + 2500)} for path in paths)


def flatten(directory):
    """A directory as earlier versions wrote it: tables as parquet, numbered files in one folder."""
    for path in sorted(directory.glob("*/[0-9][0-9]/[0-9][0-9][0-9]/*")):
        target = directory if path.suffix == ".tar" else directory / path.relative_to(directory).parts[0]
        path.rename(target / path.name)
    for folder in directory.glob("*/[0-9][0-9]"):
        shutil.rmtree(folder)
    for path in directory.glob("*.arrow"):
        table = map_table(path)
        if path.stem == "tars":
            table = table.set_column(0, "path", [[stored.rpartition("/")[2] for stored in table["path"].to_pylist()]])
        pq.write_table(table, path.with_suffix(".parquet"))
        path.unlink()


def test_directories_of_earlier_versions_are_read_and_gone_on_with(tmp_path):
    paths = write_shards(tmp_path / "data", 6, 12, with_json=True)
    source = index_sources(paths, tmp_path / "data")
    buckets = write_buckets(source, HashLabels(), tmp_path / "b", **SMALL)
    before = contents(buckets)
    for directory in (source.directory, buckets.directory):
        flatten(directory)
    assert sorted(path.name for path in buckets.directory.iterdir())[:2] == ["00000000.tar", "00000001.tar"]
    assert (source.directory / "offsets/00000005.arrow").exists() and not list(tmp_path.rglob("tars.arrow"))
    old = Manifest.load(buckets.directory)
    assert old.hash == buckets.hash and contents(old) == before and verify(old.directory) == []
    assert index_sources(paths, source.directory).hash == source.hash
    assert write_buckets(Manifest.load(source.directory), HashLabels(), old.directory, **SMALL).hash == old.hash
    # Half made: what is there is kept, what is missing goes to its folder.
    (source.directory / "manifest.json").unlink()
    (source.directory / "offsets/00000002.arrow").unlink()
    kept = (source.directory / "offsets/00000001.arrow").stat().st_ino
    mixed = index_sources(paths, source.directory)
    assert mixed.hash == source.hash
    assert (source.directory / "offsets/00000001.arrow").stat().st_ino == kept
    assert write_buckets(mixed, HashLabels(), tmp_path / "again", **SMALL).hash == buckets.hash


def test_labels_and_vectors_of_earlier_versions_are_read(tmp_path):
    labels = {f"{shard:05d}": {f"k{row}": row % 3 for row in range(4)} for shard in range(3)}
    stage = write_clusters(tmp_path / "stage", labels, k=3)
    flatten(stage)
    assert (stage / "labels/00000002.parquet").exists()
    assert PseudoLabels([stage]).labels_for("00002", ["k2", "k0"], partial=True) == ["2", "0"]
    write_vectors(file_of(tmp_path / "v", 1), ["a"], [torch.ones(1, 4)])
    numbered(tmp_path / "v", 1, ".safetensors").rename(tmp_path / "v/00000001.safetensors")
    assert find_numbered(tmp_path / "v", 1, ".safetensors").parent == tmp_path / "v"
    assert torch.equal(TextVectors(tmp_path / "v", 4, torch.float32).of([(1, "a")]), torch.ones(1, 4))
