"""Buckets: the same samples in the same bytes, whoever writes them and however often they are killed."""

import multiprocessing
import os
import random
import resource
import tarfile
import time
import zlib

import pytest
import webdataset
from hypothesis import settings

from mcl_clip.errors import UserError
from mcl_clip.shards.buckets import write_buckets
from mcl_clip.shards.copying import member_key
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.verify import verify
from tests.distributed import run_ranks, world_of
from tests.tars import image_bytes, read_samples, write_shards, write_tar

SMALL = {"shard_size": 5, "unit_samples": 25}


class HashLabels:
    """Skewed label paths of `depth` components from a hash of the key; about one sample in 12 has none."""

    def __init__(self, depth=1):
        self.depth = depth
        self.hash = f"depth {depth}"

    def label(self, shard, key):
        value = zlib.crc32(f"{shard}/{key}".encode())
        if value % 12 == 0:
            return None
        return "/".join(str((0, 0, 0, 3, 11)[value // 12 // 5**level % 5]) for level in range(self.depth))

    def labels_for(self, shard, keys, *, partial=False):
        return [self.label(shard, key) for key in keys]

    def check_shards(self, shards):
        assert len(set(shards)) == len(shards)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    paths = write_shards(folder / "data", 8, 12, with_json=True, no_caption=[(1, 3)], no_image=[(2, 0)])
    return index_sources(paths, folder / "index")


def contents(manifest):
    """{label: [(source shard, key, image, caption)] in order}."""
    found = {}
    for shard in range(manifest.num_shards):
        rows = manifest.open_shard(shard)
        label = manifest.label_paths[manifest.shard_label[shard]]
        for row in range(len(rows)):
            sample = (*rows.source_of(row), rows.read_image(row), rows.read_caption(row))
            found.setdefault(label, []).append(sample)
    return found


def expected(source, labels):
    """The twin: every sample of the source in order, put under its label."""
    found = {}
    for sample in contents(source)[""]:
        label = labels.label(*sample[:2])
        if label is not None:
            found.setdefault(label, []).append(sample)
    return found


@pytest.mark.parametrize("index_only", [False, True])
def test_repeat_counts_of_sources_are_those_of_their_samples_in_every_bucket(tmp_path, index_only):
    paths = write_shards(tmp_path / "data", 4, 12)
    counts = dict(zip(("00000", "00001", "00002", "00003"), (1, 3, 1, 2), strict=True))
    source = index_sources(paths, tmp_path / "index", repeats=list(counts.values()))
    buckets = write_buckets(source, HashLabels(), tmp_path / "b", index_only=index_only, **SMALL)
    deeper = write_buckets(buckets, HashLabels(2), tmp_path / "c", index_only=index_only, **SMALL)
    for manifest, depth in ((buckets, 1), (deeper, 2)):
        assert {label: sorted(found) for label, found in contents(manifest).items()} == {
            label: sorted(found) for label, found in expected(source, HashLabels(depth)).items()
        }
        for shard in range(manifest.num_shards):
            rows = manifest.open_shard(shard)
            found = {counts[rows.source_of(row)[0]] for row in range(len(rows))}
            assert found == {manifest.shard_repeats[shard]}
    assert verify(deeper.directory) == []


@pytest.mark.parametrize("index_only", [False, True])
@pytest.mark.parametrize("depth", [1, 2])
def test_every_labelled_sample_is_in_its_bucket_once(source, tmp_path, index_only, depth):
    labels = HashLabels(depth)
    manifest = write_buckets(source, labels, tmp_path / "b", index_only=index_only, workers=2, **SMALL)
    assert contents(manifest) == expected(source, labels)
    assert manifest.num_samples + sum(entry["count"] for entry in manifest.left_out.values()) == 96
    assert set(manifest.shard_size[:-1].tolist()) <= {1, 2, 3, 4, 5}
    sizes = {}
    for label, size in zip(manifest.shard_label.tolist(), manifest.shard_size.tolist(), strict=True):
        sizes.setdefault(label, []).append(size)
    assert all(set(full) <= {5} and 1 <= last <= 5 for *full, last in sizes.values())
    assert manifest.label_paths == sorted(manifest.label_paths, key=lambda path: [*map(int, path.split("/"))])
    assert verify(manifest.directory) == []
    tars = list(manifest.directory.glob("tars/*/*/*.tar"))
    assert len(tars) == (0 if index_only else manifest.num_shards)
    assert not (manifest.directory / "work").exists()


def test_any_webdataset_reader_gets_each_sample_once_with_equal_bytes(source, tmp_path):
    manifest = write_buckets(source, HashLabels(), tmp_path / "b", **SMALL)
    original = read_samples(source.tars.paths)
    found = {}
    urls = f"{tmp_path}/b/tars/00/000/{{00000000..{manifest.num_shards - 1:08d}}}.tar"
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        source_shard, key = sample["__key__"].split("_")
        files = {name: data for name, data in sample.items() if not name.startswith("__")}
        assert (source_shard, key) not in found
        found[source_shard, key] = files
    wanted = {
        place: files
        for place, files in original.items()
        if {"jpg", "txt"} <= files.keys() and HashLabels().label(*place) is not None
    }
    assert found == {(f"{int(shard):06d}", key): files for (shard, key), files in wanted.items()}
    with tarfile.open(manifest.tars.paths[0]) as tar:
        assert {info.mtime for info in tar} == {0} and not tar.pax_headers


@pytest.mark.parametrize("index_only", [False, True])
@pytest.mark.parametrize("between_index_only", [False, True])
def test_buckets_of_buckets_are_those_of_the_source(source, tmp_path, index_only, between_index_only):
    first = write_buckets(source, HashLabels(1), tmp_path / "1", index_only=between_index_only, **SMALL)
    direct = write_buckets(source, HashLabels(2), tmp_path / "2", index_only=index_only, **SMALL)
    again = write_buckets(first, HashLabels(2), tmp_path / "3", index_only=index_only, **SMALL)
    assert contents(direct) == contents(again)
    if not index_only:
        assert direct.hash == again.hash


def test_coarser_labels_from_buckets_give_the_same_set(source, tmp_path):
    fine = write_buckets(source, HashLabels(2), tmp_path / "fine", **SMALL)
    coarse = write_buckets(fine, HashLabels(1), tmp_path / "coarse", **SMALL)
    wanted = {label: sorted(samples) for label, samples in expected(source, HashLabels(1)).items()}
    assert {label: sorted(samples) for label, samples in contents(coarse).items()} == wanted


def _bucket_rank(rank, world_size, source, target, index_only):
    world = world_of(rank, world_size)
    return write_buckets(Manifest.load(source), HashLabels(), target, world=world, index_only=index_only, **SMALL).hash


@pytest.mark.parametrize("index_only", [False, True])
def test_the_result_does_not_depend_on_ranks_workers_or_units(source, tmp_path, index_only):
    alone = tmp_path / "alone"
    first = write_buckets(source, HashLabels(), alone, index_only=index_only, **SMALL)
    shared = tmp_path / "shared"
    hashes = run_ranks(_bucket_rank, 3, str(source.directory), str(shared), index_only)
    assert hashes == [first.hash] * 3
    other = tmp_path / "other"
    write_buckets(source, HashLabels(), other, index_only=index_only, shard_size=5, unit_samples=1, workers=3)
    for directory in (shared, other):
        assert _files(directory) == _files(alone)


def _files(directory):
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("index_only", [False, True])
def test_killed_anywhere_and_run_again_gives_the_same_files(source, tmp_path, index_only):
    alone = tmp_path / "alone"
    started = time.monotonic()
    write_buckets(source, HashLabels(), alone, index_only=index_only, **SMALL)
    took = time.monotonic() - started
    target = tmp_path / "target"
    chance = random.Random(3)
    options = {"index_only": index_only, **SMALL}
    for _ in range(max(8, settings.default.max_examples // 20)):
        process = multiprocessing.get_context("fork").Process(
            target=write_buckets, args=(source, HashLabels(), target), kwargs=options
        )
        process.start()
        time.sleep(chance.random() * took * 0.7)
        process.kill()
        process.join()
    write_buckets(source, HashLabels(), target, index_only=index_only, **SMALL)
    assert _files(target) == _files(alone)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("index_only", [False, True])
def test_interrupted_between_renames_gives_the_same_files(source, tmp_path, index_only, monkeypatch):
    alone, target = tmp_path / "alone", tmp_path / "target"
    write_buckets(source, HashLabels(), alone, index_only=index_only, **SMALL)
    replace, left = os.replace, [0]

    def killed(*paths):
        if not left[0]:
            raise Killed
        left[0] -= 1
        replace(*paths)

    attempts = 0
    monkeypatch.setattr(os, "replace", killed)
    while True:
        # Every run gets one rename further than the last one.
        attempts += 1
        left[0] = attempts
        try:
            write_buckets(source, HashLabels(), target, index_only=index_only, **SMALL)
            break
        except Killed:
            pass
    assert attempts > 5
    assert _files(target) == _files(alone)


def test_finished_buckets_are_reused_and_others_refused(source, tmp_path):
    target = tmp_path / "b"
    manifest = write_buckets(source, HashLabels(), target, **SMALL)
    before = (target / "manifest.json").stat().st_mtime_ns
    assert write_buckets(source, HashLabels(), target, **SMALL).hash == manifest.hash
    assert (target / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="was made from another labels"):
        write_buckets(source, HashLabels(2), target, **SMALL)
    with pytest.raises(UserError, match=r"another kind, shard_size"):
        write_buckets(source, HashLabels(), target, index_only=True, shard_size=6)
    with pytest.raises(UserError, match="is not empty"):
        write_buckets(source, HashLabels(), source.directory.parent / "data", **SMALL)


def test_work_of_other_labels_is_refused(source, tmp_path):
    class Failing(HashLabels):
        def labels_for(self, shard, keys, *, partial=False):
            raise Killed

    with pytest.raises(Killed):
        write_buckets(source, Failing(), tmp_path / "b", **SMALL)
    with pytest.raises(UserError, match="unfinished buckets of another labels"):
        write_buckets(source, HashLabels(2), tmp_path / "b", **SMALL)


def test_data_without_labels_is_refused(source, tmp_path):
    class Nothing(HashLabels):
        def label(self, shard, key):
            return None

    with pytest.raises(UserError, match=r"no sample .* has a label"):
        write_buckets(source, Nothing(), tmp_path / "b", **SMALL)


def test_a_tar_changed_after_indexing_is_named(tmp_path):
    paths = write_shards(tmp_path / "data", 2, 6)
    source = index_sources(paths, tmp_path / "index")
    with open(paths[1], "r+b") as file:
        file.seek(0)
        file.write(b"\xff" * 100)
    with pytest.raises(UserError, match=r"00001\.tar changed after it was indexed.*'000010000'"):
        write_buckets(source, _One(), tmp_path / "b")


class _One(HashLabels):
    def label(self, shard, key):
        return "0"


def test_odd_keys_and_members_keep_their_bytes(tmp_path):
    long = "long" * 50
    files = []
    for key in ("dir.v1/a", "./b", "é%2F", f"{long}/{long}", "dir_v1_a"):
        files += [(f"{key}.JPG", image_bytes(1)), (f"{key}.seg.png", b""), (f"{key}.txt", key.encode())]
        files += [(f"{key}.pyd", bytes(513))]
    source = index_sources([write_tar(tmp_path / "0.tar", files, mtime=0.5)], tmp_path / "index")
    manifest = write_buckets(source, _One(), tmp_path / "b", shard_size=2)
    assert contents(manifest) == expected(source, _One())
    assert verify(manifest.directory) == []
    found = {}
    for path in manifest.tars.paths:
        for sample in webdataset.WebDataset(path, shardshuffle=False):
            assert sample["pyd"] == bytes(513) and sample["seg.png"] == b""
            assert "/" not in sample["__key__"]
            found[sample["__key__"]] = sample["txt"].decode()
    assert found == {member_key(0, key): key for key in found.values()} and len(found) == 5


def test_open_files_are_few_whatever_the_number_of_buckets(source, tmp_path):
    class Own(HashLabels):
        def label(self, shard, key):
            return str(int(key) % 997)

    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 24, limits[1]))
    try:
        manifest = write_buckets(source, Own(), tmp_path / "b", **SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(manifest.label_paths) > 40
    assert contents(manifest) == expected(source, Own())
