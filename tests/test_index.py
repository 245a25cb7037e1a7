"""The index against tarfile and webdataset, and what it refuses."""

import contextlib
import json
import os
import shutil
import tarfile
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import webdataset

from mcl_clip.errors import UserError
from mcl_clip.shards.columns import map_table
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.offsets import IMAGE_EXTENSIONS, offsets_path
from mcl_clip.shards.scan import scan_tar
from mcl_clip.world import World
from tests.distributed import run_ranks, world_of
from tests.tars import image_bytes, read_samples, write_shards, write_tar

JPEG = image_bytes(0)


def test_every_sample_is_found_as_tarfile_finds_it(tmp_path):
    failing = {"no_caption": [(0, 0), (1, 3)], "no_image": [(2, 8)]}
    paths = write_shards(tmp_path / "data", 3, 9, with_json=True, **failing)
    manifest = index_sources(paths, tmp_path / "index", workers=2)
    expected = read_samples(paths)
    failed = {("00000", "000000000"), ("00001", "000010003"), ("00002", "000020008")}
    seen = set()
    for shard in range(3):
        rows = manifest.open_shard(shard)
        for row, key in enumerate(rows.keys):
            place = rows.source_of(row)
            assert place == (manifest.shard_names[shard], key)
            assert (row >= rows.num_samples) == (place in failed)
            files = expected[place]
            assert rows.read_image(row) == files.get("jpg", b"")
            assert rows.read_caption(row) == (files["txt"].decode() if "txt" in files else None)
            seen.add(place)
    assert seen == set(expected)
    assert (manifest.num_samples, manifest.num_failed) == (24, 3)
    assert manifest.shard_size.tolist() == [8, 8, 8]


def test_checksums_cover_every_byte_once(tmp_path):
    files = [
        ("x/readme", b"no key"),
        ("a.jpg", JPEG),
        ("a.txt", b"a"),
        ("__meta__/b.txt", b""),
        ("c.txt", b"c"),
    ]
    path = write_tar(tmp_path / "a.tar", files, mtime=0.5)
    table, rest, *_ = scan_tar(path)
    data = Path(path).read_bytes()
    covered = []
    for row in table.to_pylist():
        sample = data[row["sample_offset"] : row["sample_offset"] + row["sample_size"]]
        covered.append((row["sample_offset"], row["sample_offset"] + row["sample_size"]))
        payloads = b"".join(member for name, member in files if name.split(".")[0] == row["key"])
        assert zlib.crc32(payloads) == row["payload_crc32"]
        place = sample.find(payloads[: len(JPEG)])
        assert place > 0
    outside = b""
    place = 0
    for start, stop in sorted(covered):
        outside += data[place:start]
        place = stop
    assert zlib.crc32(outside + data[place:]) == rest


NAMES = [
    "a.jpg",
    "a.txt",
    "dir.v1/b.JPG",
    "dir.v1/b.txt",
    "./c.d.jpg",
    "./c.jpg",
    "./c.txt",
    "é.png",
    "é.txt",
    "noext",
]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("long", ["", "x" * 150 + "/"])
def test_keys_are_those_of_webdataset(tmp_path, format, long):
    files = [(long + name, name.encode() * 9) for name in NAMES]
    path = write_tar(tmp_path / "a.tar", files, format=format)
    expected = [sample["__key__"] for sample in webdataset.WebDataset(path, shardshuffle=False)]
    table = scan_tar(path).rows
    assert sorted(table["key"].to_pylist()) == sorted(expected)


def test_captions_from_json(tmp_path):
    files = []
    for key, text in {
        "a": '{"text": "A", "n": 1}',
        "b": "{}",
        "c": "broken",
        "d": '{"text": null}',
        "e": "[1]",
    }.items():
        files += [(f"{key}.jpg", JPEG), (f"{key}.txt", b"not this"), (f"{key}.json", text.encode())]
    paths = [write_tar(tmp_path / "0.tar", files)]
    manifest = index_sources(paths, tmp_path / "index", caption_key="text")
    rows = manifest.open_shard(0)
    assert rows.keys == ["a", "b", "c", "d", "e"] and rows.num_samples == 1
    assert [rows.read_caption(row) for row in range(5)] == ["A", None, None, None, None]
    with pytest.raises(UserError, match="--mcl-caption-key"):
        index_sources(paths, tmp_path / "index")
    with pytest.raises(UserError, match=r"no sample.*'other'"):
        index_sources(paths, tmp_path / "other", caption_key="other")


def test_the_image_is_the_one_open_clip_takes(tmp_path):
    for extensions, chosen in (
        (("webp", "jpeg", "png"), "png"),
        (("webp", "jpg", "png"), "jpg"),
        (("webp",), "webp"),
    ):
        path = write_tar(tmp_path / "a.tar", [(f"a.{name}", name.encode()) for name in (*extensions, "txt")])
        manifest = index_sources([path], tmp_path / chosen)
        assert manifest.open_shard(0).read_image(0) == chosen.encode()
        (code,) = manifest.open_shard(0).table["image_extension"].to_pylist()
        assert IMAGE_EXTENSIONS[code] == chosen


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([("a.jpg", b""), ("a.jpg", b"")], "'a.jpg' occurs twice"),
        ([("a.jpg", b""), ("b.jpg", b""), ("a.txt", b"")], "key 'a' occurs twice"),
        ([("../a.jpg", b"")], "leaves the directory"),
        ([("x/../../a.jpg", b"")], "leaves the directory"),
        ([("/etc/a.jpg", b"")], "leaves the directory"),
    ],
)
def test_what_cannot_be_trained_on_names_the_tar(tmp_path, files, reason):
    paths = [*write_shards(tmp_path, 1, 2), write_tar(tmp_path / "bad.tar", files)]
    with pytest.raises(UserError, match=f"1 of 2 tars.*bad.tar.*{reason}"):
        index_sources(paths, tmp_path / "index", workers=2)
    assert not (tmp_path / "index/manifest.json").exists()


def test_broken_tars_are_named_all_at_once(tmp_path):
    paths = write_shards(tmp_path / "data", 4, 3)
    os.truncate(paths[0], os.path.getsize(paths[0]) // 2)
    os.truncate(paths[2], 0)
    with pytest.raises(UserError, match=r"2 of 4.*00000.tar: truncated.*00002.tar: truncated"):
        index_sources(paths, tmp_path / "index")


def test_payloads_are_only_bytes(tmp_path):
    bomb = b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR."
    files = [("a.jpg", JPEG), ("a.txt", b"a"), ("a.pyd", bomb), ("a.pkl", bomb), ("a.pth", bomb)]
    manifest = index_sources([write_tar(tmp_path / "a.tar", files)], tmp_path / "index")
    assert manifest.open_shard(0).read_image(0) == JPEG
    assert not (tmp_path / "owned").exists()


def test_a_finished_index_is_reused_and_a_stale_one_refused(tmp_path):
    paths = write_shards(tmp_path / "data", 3, 4)
    index = tmp_path / "index"
    first = index_sources(paths, index)
    before = (index / "manifest.json").stat().st_mtime_ns
    assert index_sources(paths, index).hash == first.hash
    assert (index / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="index of other tars"):
        index_sources(paths[:2], index)
    with pytest.raises(UserError, match="index of other tars"):
        index_sources(paths[::-1], index)
    os.utime(paths[1], ns=(1, 1))
    with pytest.raises(UserError, match=r"00001.tar was modified.*2 s are tolerated.*delete"):
        index_sources(paths, index)
    write_shards(tmp_path / "data", 1, 40)
    with pytest.raises(UserError, match=r"00000.tar changed"):
        index_sources(paths, index)
    with pytest.raises(UserError, match=r"00000.tar has .* bytes, it had"):
        Manifest.load(index).open_shard(0).read_image(0)


def test_a_copied_index_and_coarse_times_are_fresh(tmp_path):
    paths = write_shards(tmp_path / "data", 2, 4)
    first = index_sources(paths, tmp_path / "index")
    # cp -r gives files the time of the copy, and many file systems keep whole seconds.
    shutil.copytree(tmp_path / "index", tmp_path / "copy", copy_function=shutil.copyfile)
    for path in paths:
        seconds = os.stat(path).st_mtime_ns // 10**9 * 10**9
        os.utime(path, ns=(seconds, seconds))
    assert index_sources(paths, tmp_path / "copy").hash == first.hash
    then = os.stat(paths[1]).st_mtime_ns
    for away, fresh in ((10**9, True), (5 * 10**9, False)):
        os.utime(paths[1], ns=(then - away, then - away))
        with contextlib.nullcontext() if fresh else pytest.raises(UserError, match="modified"):
            index_sources(paths, tmp_path / "copy")
    # As the error says: read once more, the same data has the same hash.
    (tmp_path / "copy/manifest.json").unlink()
    assert index_sources(paths, tmp_path / "copy").hash == first.hash


def test_an_index_without_times_is_still_read(tmp_path):
    """As indexes were before times were stored in them."""
    paths = write_shards(tmp_path / "data", 2, 4)
    index = tmp_path / "index"
    first = index_sources(paths, index)
    table = map_table(index / "tars.arrow")
    (index / "tars.arrow").unlink()
    pq.write_table(table.drop_columns(["mtime_ns"]), index / "tars.parquet")
    info = {name: value for name, value in first.info.items() if name != "left_out"}
    (index / "manifest.json").write_text(json.dumps(info))
    os.utime(paths[0], ns=(1, 1))
    old = index_sources(paths, index)
    assert old.hash == first.hash and old.left_out == {}
    assert old.open_shard(1).read_image(3) == first.open_shard(1).read_image(3)
    write_shards(tmp_path / "data", 1, 40)
    with pytest.raises(UserError, match="changed"):
        index_sources(paths, index)


def test_an_unfinished_index_goes_on_with_what_is_missing(tmp_path):
    paths = write_shards(tmp_path / "data", 4, 4)
    index = tmp_path / "index"
    whole = index_sources(paths, index)
    text = (index / "manifest.json").read_text()
    (index / "manifest.json").unlink()
    offsets_path(index, 2).unlink()
    kept = offsets_path(index, 1)
    inode = kept.stat().st_ino
    assert index_sources(paths, index, workers=2).hash == whole.hash
    assert kept.stat().st_ino == inode
    assert (index / "manifest.json").read_text() == text
    (index / "manifest.json").unlink()
    write_shards(tmp_path / "data", 2, 4, seed=1)
    changed = index_sources(paths, index)
    assert changed.hash != whole.hash
    assert changed.open_shard(1).read_caption(0).endswith("seed 1")


def test_data_that_is_moved_with_its_index_keeps_its_hash(tmp_path):
    paths = write_shards(tmp_path / "data", 2, 3)
    manifest = index_sources(paths, tmp_path / "data")
    elsewhere = index_sources(paths, tmp_path / "index")
    shutil.move(tmp_path / "data", tmp_path / "moved")
    moved = Manifest.load(tmp_path / "moved")
    assert moved.hash == manifest.hash == elsewhere.hash
    assert moved.open_shard(1).read_image(2)


def test_tars_that_were_moved_are_found_again_and_others_refused(tmp_path):
    paths = write_shards(tmp_path / "data", 3, 2)
    before = index_sources(paths, tmp_path / "index")
    shutil.move(tmp_path / "data", tmp_path / "moved")
    moved = [path.replace("/data/", "/moved/") for path in paths]
    after = index_sources(moved, tmp_path / "index")
    assert after.hash == before.hash and after.tars.paths == moved
    assert after.open_shard(2).read_image(1) == image_bytes(0, 2, 1)
    others = write_shards(tmp_path / "others", 3, 3)
    with pytest.raises(UserError, match=r"index of other tars \(.*others/00000\.tar\)"):
        index_sources(others, tmp_path / "index")
    assert Manifest.load(tmp_path / "index").tars.paths == moved


def _index_rank(rank, world_size, paths, directory):
    return index_sources(paths, directory, world=world_of(rank, world_size)).hash


def test_ranks_share_the_work(tmp_path):
    paths = write_shards(tmp_path / "data", 5, 3)
    alone = index_sources(paths, tmp_path / "alone")
    assert run_ranks(_index_rank, 2, paths, str(tmp_path / "shared")) == [alone.hash] * 2
    texts = [(tmp_path / name / "manifest.json").read_text() for name in ("alone", "shared")]
    assert texts[0] == texts[1]
    assert not (tmp_path / "shared/work").exists()


class Deaf(World):
    """A rank that is told that the index stands, and may not look at a tar."""

    rank, world_size = 1, 2

    def share(self, value):
        return None


def test_other_ranks_of_a_finished_index_ask_for_no_tar(tmp_path):
    paths = write_shards(tmp_path / "data", 3, 4)
    whole = index_sources(paths, tmp_path / "index")
    shutil.rmtree(tmp_path / "data")
    assert index_sources([], tmp_path / "index", world=Deaf()).hash == whole.hash


def test_repeat_counts_are_of_the_index_and_its_hash(tmp_path):
    paths = write_shards(tmp_path / "data", 3, 4)
    plain = index_sources(paths, tmp_path / "plain")
    ones = index_sources(paths, tmp_path / "ones", repeats=[1, 1, 1])
    twice = index_sources(paths, tmp_path / "twice", repeats=[1, 2, 1])
    assert plain.shard_repeats.tolist() == [1, 1, 1] and "repeated" not in plain.info
    assert ones.hash == plain.hash != twice.hash
    assert Manifest.load(twice.directory).shard_repeats.tolist() == [1, 2, 1]
    assert twice.num_samples == 12
    index_sources(paths, tmp_path / "twice", repeats=[1, 2, 1])
    with pytest.raises(UserError, match=r"repeats its sources otherwise \(--train-data-upsampling-factors\)"):
        index_sources(paths, tmp_path / "twice")
