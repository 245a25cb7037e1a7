"""A place that cannot be written is one line that names it; no other error is taken for one."""

import errno
import os
from pathlib import Path

import pytest

from mcl_clip.artifacts import atomic_directory, atomic_path, check_place
from mcl_clip.errors import UserError, machine_error


def bad_places(root: Path) -> list[tuple[Path, bool]]:
    """Places, and whether a directory is wanted there."""
    (root / "folder").mkdir()
    (root / "file").write_text("kept")
    under = [(root / "file" / "deep" / "x", directory) for directory in (False, True)]
    return [(root / "folder", False), (Path("/dev/null"), False), (root / "file", True), *under]


def test_a_bad_place_is_named_before_the_work(tmp_path):
    for path, directory in bad_places(tmp_path):
        with pytest.raises(UserError, match=f"--flag {path} "):
            check_place("--flag", path, directory)
        with pytest.raises(UserError, match=f"{path} cannot be written"):  # noqa: SIM117  what is raised at the start
            with (atomic_directory if directory else atomic_path)(path):
                pytest.fail("the work has begun")
    assert (tmp_path / "file").read_text() == "kept" and Path("/dev/null").is_char_device()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]


def test_a_place_that_can_be_written_is_left_as_it_is(tmp_path):
    (tmp_path / "old.json").write_text("old")
    for path, directory in [("old.json", False), ("new/deep/x.json", False), ("new/deep", True), (".", True)]:
        check_place("--flag", tmp_path / path, directory)
    assert [each.name for each in tmp_path.iterdir()] == ["old.json"]


@pytest.mark.skipif(not os.access("/proc", os.R_OK), reason="needs a file system that takes no files")
def test_the_disk_itself_is_asked():
    """Its mode lets root write there."""
    with pytest.raises(UserError, match=r"--flag /proc/a\.json cannot be made: /proc"):
        check_place("--flag", "/proc/a.json")


@pytest.mark.parametrize("open_place", [atomic_path, atomic_directory])
def test_another_files_error_and_a_full_disk_stay_what_they_are(tmp_path, monkeypatch, open_place):
    with pytest.raises(FileNotFoundError, match="input"), open_place(tmp_path / "x"):
        (tmp_path / "input").read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left") as raised, open_place(tmp_path / "x"):
        pass
    assert "the disk is full" in machine_error(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("open_place", [atomic_path, atomic_directory])
def test_a_place_lost_during_the_work_is_one_line(tmp_path, monkeypatch, open_place):
    def read_only(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "replace", read_only)
    with pytest.raises(UserError, match=r"x cannot be written \(Read-only"), open_place(tmp_path / "x"):
        pass
