"""Specs of --train-data, and the names of tars."""

import os

import pytest
from braceexpand import braceexpand

from mcl_clip.errors import UserError
from mcl_clip.shards.scan import scan_tar
from mcl_clip.shards.sources import expand_parts, expand_sources, manifest_directory, name_sources, repeat_counts


@pytest.fixture
def folder(tmp_path):
    for name in ("a/00000.tar", "a/00001.tar", "a/00002.tar", "b/00000.tar", "b/[x].tar", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    return tmp_path


def expand(folder, spec):
    parts = [f"{folder}/{part}" for part in spec.split("::")]
    return [path.removeprefix(f"{folder}/") for path in expand_sources("::".join(parts))]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("a/00001.tar", ["a/00001.tar"]),
        ("a/{00002..00000}.tar", ["a/00002.tar", "a/00001.tar", "a/00000.tar"]),
        ("{b,a}/00000.tar", ["b/00000.tar", "a/00000.tar"]),
        ("b/00000.tar::a/{00000..00001}.tar", ["b/00000.tar", "a/00000.tar", "a/00001.tar"]),
        ("a/*.tar", ["a/00000.tar", "a/00001.tar", "a/00002.tar"]),
        ("a", ["a/00000.tar", "a/00001.tar", "a/00002.tar"]),
        ("b/[x].tar", ["b/[x].tar"]),
    ],
)
def test_a_spec_names_tars_in_its_order(folder, spec, expected):
    assert expand(folder, spec) == expected


def test_many_tars_are_found_by_listing_their_folders_once(tmp_path, monkeypatch):
    """And are the same that are found one by one: a link to one of them is that one."""
    for number in range(60):
        (tmp_path / f"{number % 3}").mkdir(exist_ok=True)
        (tmp_path / f"{number % 3}/{number:05d}.tar").touch()
    (tmp_path / "0/00060.tar").symlink_to(tmp_path / "1/00001.tar")
    spec = f"{tmp_path}/{{0..2}}/{{00000..00059}}.tar"
    one_by_one = [path for path in braceexpand(spec) if os.path.exists(path)]
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder) or scandir(folder))
    many = "::".join(f"{tmp_path}/{folder}/{{{folder:05d}..{57 + folder:05d}..3}}.tar" for folder in range(3))
    monkeypatch.setattr(os, "stat", None)
    monkeypatch.setattr(os.path, "exists", None)
    assert sorted(expand_sources(many)) == sorted(one_by_one)
    assert sorted(listed) == [f"{tmp_path}/{folder}" for folder in range(3)]
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"00001\.tar twice"):
        expand_sources(f"{many}::{tmp_path}/0/00060.tar")


def test_a_list_is_a_spec(folder):
    assert expand_sources([folder / "b/00000.tar", f"{folder}/a/00000.tar"]) == [
        f"{folder}/b/00000.tar",
        f"{folder}/a/00000.tar",
    ]


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("a/{00000..00003}.tar", "00003.tar: no such tar"),
        ("empty", "no such tar"),
        ("c/*.tar", "no such tar"),
        ("a/{00000.tar", "braces"),
        ("a/00000.tar::a/00000.tar", "twice"),
        ("a::a/../a/00001.tar", "twice"),
    ],
)
def test_what_cannot_be_used_is_refused(folder, spec, reason):
    with pytest.raises(UserError, match=f"--train-data.*{reason}"):
        expand(folder, spec)


def test_a_command_is_refused_and_not_run():
    with pytest.raises(UserError, match="paths and URLs can be read, not pipe:"):
        expand_sources("pipe:cat x.tar")


def test_nothing_at_all_is_refused():
    with pytest.raises(UserError, match="--train-data"):
        expand_sources([])


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/d/a/0.tar", "/d/a/1.tar"], ["0", "1"]),
        (["/d/a/0.tar", "/d/b/0.tar", "/d/b/1.tar"], ["a/0", "b/0", "b/1"]),
        (["/d/a/x/0.tar", "/d/b/x/0.tar"], ["a/x/0", "b/x/0"]),
        (["/d/0", "/d/1.tar"], ["0", "1"]),
        ([], []),
    ],
)
def test_names_tell_all_tars_apart(paths, names):
    assert name_sources(paths) == names


def test_a_directory_with_a_manifest_is_known(folder):
    assert manifest_directory(str(folder / "a")) is None
    (folder / "a/manifest.json").touch()
    assert manifest_directory(str(folder / "a")) == folder / "a"
    assert manifest_directory([str(folder / "a"), str(folder / "b")]) is None


def test_what_is_no_tar_is_told_what_takes_it(tmp_path):
    (tmp_path / "x.csv").write_text("filepath\ttitle\n")
    (tmp_path / "x.jsonl").write_text("{}\n")
    (tmp_path / "x.json").write_text("{}")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8b\x08")
    (tmp_path / "x.zip").write_bytes(b"PK\x03\x04")
    (tmp_path / "x.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    for folder, file in {"saved": "state.json", "table": "0.parquet", "flat": "0.JPG", "classes/cat": "0.png"}.items():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / file).write_bytes(b"")
    pack = "mcl-shards pack {} --output DIR"
    for name, words in {
        "x.csv": ("a table", pack),
        "x.jsonl": ("JSON lines", pack),
        "x.json": ("JSON", pack),
        "x.parquet": ("parquet", pack),
        "x.tar.gz": ("compressed", "gunzip"),
        "x.zip": ("a zip archive", "unpack it"),
        "x.jpg": ("one image", "give tars"),
        "saved": ("a data set of Hugging Face", pack),
        "table": ("parquet", pack),
        "flat": ("a folder of images", pack),
        "classes": ("a folder of images", pack),
    }.items():
        path = str(tmp_path / name)
        with pytest.raises(UserError) as error:
            expand_sources(path, "--val-data")
        told = str(error.value)
        assert told.startswith(f"--val-data {path} is {words[0]}") and words[1].format(path) in told
    compressed = tmp_path / "z.tar"
    compressed.write_bytes(b"\x1f\x8b\x08" + bytes(1000))
    with pytest.raises(UserError, match=r"z.tar is compressed: unpack it first \(gunzip"):
        scan_tar(str(compressed))


def test_parts_keep_apart_what_each_of_them_names(folder):
    parts = expand_parts(f"{folder}/a::{folder}/b/00000.tar")
    assert [len(part) for part in parts] == [3, 1]


def test_repeat_counts_are_whole_numbers_of_every_source():
    assert repeat_counts("2::1::10") == [2, 1, 10]
    for wrong in ("0.5::1", "0::1", "-1", "2:1", "", "2::", "1001", "\u0662"):
        with pytest.raises(UserError, match=f"--train-data-upsampling-factors {wrong}: give a whole number"):
            repeat_counts(wrong)
