"""Reads by byte range, with few open files."""

import gc
import os

import pytest

from mcl_clip.errors import UserError
from mcl_clip.shards import reader
from mcl_clip.shards.reader import Tars


def _open_files():
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"{number}.tar" for number in range(20)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 100)
    return paths


def test_ranges_are_read_and_descriptors_are_few(files, monkeypatch):
    monkeypatch.setattr(reader, "MAX_OPEN_TARS", 4)
    tars = Tars(files, [100] * 20)
    gc.collect()
    before = _open_files()
    for turn in range(3):
        for number in range(20):
            assert tars.read(number, 10 + turn, 7) == bytes([number]) * 7
            assert _open_files() <= before + 5
    del tars
    gc.collect()
    assert _open_files() == before


def test_a_missing_changed_or_short_tar_is_named(files):
    tars = Tars([*files, "nowhere.tar"], [99] + [100] * 20)
    with pytest.raises(UserError, match=r"0\.tar has 100 bytes, it had 99"):
        tars.read(0, 0, 1)
    with pytest.raises(UserError, match=r"nowhere\.tar cannot be opened"):
        tars.read(20, 0, 1)
    with pytest.raises(UserError, match=r"1\.tar ends early"):
        tars.read(1, 95, 6)
