"""Files that are either whole or absent: written aside, synced, renamed; a manifest is the commit."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcl_clip.errors import UserError

# What is wrong with the place itself, and mended by another one; a full disk has words of its own (`machine_error`).
_BAD_PLACE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EEXIST),
    *(errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP),
}


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed over `path`.

    On an exception the temporary file is removed and `path` is left as it was. `UserError` where `path` cannot be
    written, mostly before anything is done.
    """
    path = Path(path)
    with _named(path):
        if path.exists() and not path.is_file():  # a device would be replaced by the file, where one may
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR) if path.is_dir() else "Not a file")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        temporary.touch()  # a library that writes it has errors of its own for a place that is not there
    try:
        yield temporary
        with _named(path):
            sync_file(temporary)
            os.replace(temporary, path)
            sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary directory beside `path`; on success it is synced and takes the place of `path`.

    An older directory at `path` is replaced as a whole. `UserError` where `path` cannot be written.
    """
    path = Path(path)
    with _named(path):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        temporary.mkdir()
    try:
        yield temporary
        with _named(path):
            _take_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_place(temporary: Path, path: Path) -> None:
    for file in temporary.rglob("*"):
        sync_file(file) if file.is_file() else sync_directory(file)
    sync_directory(temporary)
    if path.exists():
        retired = path.with_name(f".{path.name}.{uuid.uuid4().hex}.old")
        os.replace(path, retired)
        os.replace(temporary, path)
        shutil.rmtree(retired)
    else:
        os.replace(temporary, path)
    sync_directory(path.parent)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """A place that cannot be written, in one line."""
    try:
        yield
    except OSError as error:
        if error.errno not in _BAD_PLACE:
            raise
        raise UserError(f"{path} cannot be written ({error.strerror}); choose another place") from None


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write `value` as JSON, atomically, with a stable layout (two equal values give equal bytes)."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike, mend: str = "delete it and run the command again") -> Any:
    """Read JSON; `UserError` when the file is absent or not JSON, with what to `mend`: the default is for our own."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); {mend}") from None


def sha256_file(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hexadecimal SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def sync_file(path: str | os.PathLike) -> None:
    """Force a file's bytes to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: str | os.PathLike) -> None:
    """Force a directory's entries to the disk, so that a rename survives a power cut."""
    sync_file(path)


def make_directory(directory: Path) -> None:
    """Make sure that `directory` is one and can be written; `UserError` where that cannot be."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if not os.access(directory, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise UserError(f"{directory} cannot be written to ({error.strerror}); choose another directory") from None


def check_place(flag: str, path: str | os.PathLike, directory: bool = False) -> None:
    """`UserError` unless a file, or a `directory` of files, can be written at `path`; for flags, before the work.

    Nothing is made.
    """
    if os.path.exists(path) and not (os.path.isdir(path) if directory else os.path.isfile(path)):
        raise UserError(
            f"{flag} {path} is a {'file: name a directory' if directory else 'directory or a device: name a file'}"
        )
    absolute = Path(path).absolute()
    check_inside(flag, path, absolute if directory else absolute.parent)


def check_inside(flag: str, path: str | os.PathLike, folder: Path) -> None:
    """`UserError` for `path` unless files can be made in `folder`, or in the first above it that exists."""
    nearest = next(each for each in (folder, *folder.parents) if os.path.exists(each))
    try:
        tempfile.TemporaryFile(dir=nearest).close()
    except OSError as error:
        if error.errno not in _BAD_PLACE:
            raise
        raise UserError(f"{flag} {path} cannot be made: {nearest} is not a directory that you may write to") from None
