"""Reads by byte range, with few open files."""

import errno
import gc
import os

import pytest

from mcl_clip.errors import UserError
from mcl_clip.shards import reader
from mcl_clip.shards.reader import Tars


def _open_files():
    found = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
    return sum(os.path.realpath(path).endswith(".tar") for path in found)


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


@pytest.mark.parametrize("failures", [1, 3, 4])
def test_a_read_that_fails_is_tried_again_on_a_fresh_descriptor(files, monkeypatch, failures):
    tries, pread = [], os.pread

    def flaky(descriptor, size, offset):
        tries.append(descriptor)
        if len(tries) <= failures:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", flaky)
    monkeypatch.setattr(reader.time, "sleep", lambda seconds: None)
    tars = Tars(files, [100] * 20)
    if failures < reader.TRIES:
        assert tars.read(3, 10, 7) == bytes([3]) * 7
    else:
        with pytest.raises(UserError, match=r"3\.tar cannot be read \(Input/output error\)"):
            tars.read(3, 10, 7)
    assert len(tries) == min(failures + 1, reader.TRIES)


def test_more_than_the_system_reads_at_once_is_read_in_parts(files, monkeypatch):
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda descriptor, size, offset: pread(descriptor, min(size, 9), offset))
    files[0].write_bytes(bytes(range(100)))
    tars = Tars(files, [100] * 20)
    assert tars.read(0, 5, 90) == bytes(range(5, 95))
    with pytest.raises(UserError, match="ends early: 20 bytes at 90 gave 10"):
        tars.read(0, 90, 20)
