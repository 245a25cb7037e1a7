"""Any flipped bit and any truncation is found and named."""

import os
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import settings

from mcl_clip.errors import UserError
from mcl_clip.shards.buckets import write_buckets
from mcl_clip.shards.columns import map_table, write_table
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.verify import verify
from tests.tars import image_bytes, write_shards, write_tar
from tests.test_buckets import HashLabels


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A directory with data/, index/ and buckets/, copied before it is spoilt."""
    folder = tmp_path_factory.mktemp("made")
    paths = write_shards(folder / "data", 2, 4, with_json=True)
    odd = [("x/noext", b"?"), ("a.jpg", image_bytes(7)), ("a.txt", b"odd"), ("__m__/b.txt", b"m")]
    paths.append(write_tar(folder / "data/00002.tar", odd, mtime=0.5))
    source = index_sources(paths, folder / "data")
    write_buckets(source, HashLabels(), folder / "buckets", shard_size=3)
    write_buckets(source, HashLabels(), folder / "index-only", shard_size=3, index_only=True)
    return folder


def test_what_is_sound_has_no_problems(made):
    for name in ("data", "buckets", "index-only"):
        assert verify(made / name, workers=2) == []


def _flip(path, byte, bit):
    with open(path, "r+b") as file:
        file.seek(byte)
        value = file.read(1)[0]
        file.seek(byte)
        file.write(bytes([value ^ 1 << bit]))


@pytest.mark.parametrize("name", ["data", "buckets"])
def test_a_flipped_bit_in_any_block_is_named(made, tmp_path, name):
    """One flip in every block of every tar, and in the long profile many more."""
    folder = tmp_path / name
    shutil.copytree(made / name, folder)
    chance = random.Random(1)
    flips = max(1, settings.default.max_examples // 100)
    for tar in sorted(folder.rglob("*.tar")):
        for block in range(os.path.getsize(tar) // 512):
            for byte in chance.sample(range(512), flips):
                bit = chance.randrange(8)
                _flip(tar, block * 512 + byte, bit)
                (problem,) = verify_one(folder, tar)
                _flip(tar, block * 512 + byte, bit)
                assert f"shard {tar.stem}" in problem
                ranges = problem.split("blocks ")[1].split(":")[0].split(", ")
                spans = [tuple(map(int, span.split("-"))) for span in ranges]
                assert any(first <= block <= last for first, last in spans), (block, problem)
    assert verify(folder) == []


def verify_one(folder, tar):
    """`verify` of one shard: the rest is sound and takes its time."""
    from mcl_clip.shards.manifest import Manifest
    from mcl_clip.shards.verify import _VerifyShard

    manifest = Manifest.load(folder)
    shard = sorted(folder.rglob("*.tar")).index(tar)
    return [f"shard {manifest.shard_names[shard]}: {problem}" for problem in _VerifyShard(manifest)(shard)]


@pytest.mark.parametrize("name", ["data", "buckets"])
def test_a_truncation_at_any_block_is_named(made, tmp_path, name):
    folder = tmp_path / name
    shutil.copytree(made / name, folder)
    tar = sorted(folder.rglob("*.tar"))[1]
    data = tar.read_bytes()
    for length in range(0, len(data), 512):
        tar.write_bytes(data[:length])
        problems = verify_one(folder, tar)
        assert any(f"truncated in block {length // 512}" in problem for problem in problems)
    tar.write_bytes(data + b"\0")
    assert any("bytes, not" in problem for problem in verify(folder))
    tar.unlink()
    assert any("missing" in problem for problem in verify(folder))


def test_index_only_buckets_name_samples_of_the_source(made, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(made, folder)
    source = index_sources(sorted(map(str, (folder / "data").glob("*.tar"))), folder / "index")
    buckets = write_buckets(source, HashLabels(), folder / "b", shard_size=3, index_only=True)
    rows = buckets.open_shard(0)
    start = rows.table["image_offset"][1].as_py()
    _flip(buckets.tars.paths[rows.table["tar"][1].as_py()], start + 5, 3)
    (problem,) = verify(buckets.directory)
    assert f"sample {rows.keys[1]!r}" in problem and "payload changed" in problem


def test_a_flipped_bit_in_what_is_beside_the_tars_is_found(made, tmp_path):
    folder = tmp_path / "b"
    shutil.copytree(made / "buckets", folder)
    chance = random.Random(2)
    for path in (*sorted(folder.glob("offsets/*/*/*"))[:2], *folder.glob("*.arrow")):
        sound = path.read_bytes()
        columns = range(len(sound))
        for byte in chance.sample(columns, min(len(columns), settings.default.max_examples)):
            _flip(path, byte, chance.randrange(8))
            problems = verify(folder)
            changed = path.read_bytes()
            path.write_bytes(sound)
            # Bytes that no value depends on, such as alignment, may differ.
            assert problems or _same_values(path, changed, sound, tmp_path)
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text.replace('"num_samples": ', '"num_samples": 1'))
    with pytest.raises(UserError, match="was changed"):
        verify(folder)


@pytest.mark.parametrize("name", ["shards", "tars", "sources"])
@pytest.mark.parametrize("damage", ["footer", "column", "type", "short", "empty"])
def test_a_damaged_table_is_one_problem(made, tmp_path, name, damage):
    folder = tmp_path / "b"
    shutil.copytree(made / "buckets", folder)
    path = folder / f"{name}.arrow"
    sound = path.read_bytes()
    if damage == "footer":
        path.write_bytes(sound[:-80] + bytes(70) + sound[-10:])
    elif damage in ("column", "type"):
        table = map_table(path)
        column = table.column_names[0]
        text = pa.array([b"\xff\xfe"] * len(table), pa.binary())
        other = {"column": table.drop_columns([column]), "type": table.set_column(0, column, text)}
        path.unlink()  # which the mapping keeps
        write_table(path, other[damage])
    else:
        path.write_bytes(sound[: len(sound) // 2] if damage == "short" else b"")
    (problem,) = verify(folder)
    assert str(path) in problem


def _same_values(path: Path, changed: bytes, sound: bytes, folder: Path) -> bool:
    other = folder / "other"
    other.write_bytes(changed)
    return map_table(other).replace_schema_metadata(None).equals(map_table(path).replace_schema_metadata(None))


def test_a_directory_without_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match="no finished index"):
        verify(tmp_path)
