"""Remote tars: any URL that fsspec opens, kept whole in a local cache of bounded size.

Where the cache lies and how much it may hold belongs to the machine and not to the run, so it comes from the
environment: MCL_CACHE_DIR (default ~/.cache/mcl_clip/tars) on a local disk, MCL_CACHE_GIB (default 64).
"""

import contextlib
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from mcl_clip.errors import FULL_DISK, UserError

TRIES = 4
CHUNK = 8 << 20
GIB = 1 << 30
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://")


def is_remote(path: str) -> bool:
    """Whether a source is a URL, not a path."""
    return _URL.match(path) is not None


def expand_url(pattern: str) -> list[str]:
    """The URL itself, or for one with `*` what its file system finds, sorted; `UserError` where fsspec cannot."""
    scheme = pattern.partition("://")[0]
    if scheme not in fsspec.available_protocols():
        raise UserError(f"--train-data {pattern}: there is no way to read {scheme}://; copy or mount the data")
    try:
        fsspec.get_filesystem_class(scheme)  # says what to install
        if "*" not in pattern:
            return [pattern]
        system, path = _system(pattern)
        return sorted(system.unstrip_protocol(found) for found in system.glob(path))
    except Exception as error:  # each file system raises its own
        raise UserError(f"--train-data {pattern}: {reason_of(error)}") from None


def remote_size(url: str) -> int:
    """Bytes of a remote tar; `UserError` when it is not there or its server does not say."""
    size = _persist(url, lambda system, path: system.info(path)["size"])
    if size is None:
        raise UserError(f"{url}: its server does not say how large it is; copy the data")
    return int(size)


def open_tar(path: str, size: int | None = None) -> BinaryIO:
    """A tar to be read as a local file: a remote one, of `size` bytes, through the cache."""
    if not is_remote(path):
        return open(path, "rb")
    return os.fdopen(cache().open(path, remote_size(path) if size is None else size), "rb")


def cache() -> "TarCache":
    """The cache that the environment names."""
    directory = os.environ.get("MCL_CACHE_DIR") or Path.home() / ".cache/mcl_clip/tars"
    gib = os.environ.get("MCL_CACHE_GIB") or "64"
    try:
        capacity = int(float(gib) * GIB)
    except (ValueError, OverflowError):
        raise UserError(f"MCL_CACHE_GIB={gib} is not a number of GiB") from None
    return TarCache(directory, capacity)


class TarCache:
    """Whole tars in one directory, at most `capacity` bytes of them, those that were opened last.

    Any number of processes of one machine may share it: each tar is fetched once, aside, and renamed when it is whole.
    What a killed process left is removed. An open descriptor stays good when its tar is evicted.
    """

    def __init__(self, directory: str | os.PathLike, capacity: int):
        self.directory, self.capacity = Path(directory), capacity

    def open(self, url: str, size: int) -> int:
        """Descriptor of the local copy, to be closed; `UserError` when the tar cannot be had or has another size."""
        name = hashlib.sha256(f"{size} {url}".encode()).hexdigest()
        whole, part = self.directory / f"{name}.tar", self.directory / f"{name}.part"
        while True:
            with contextlib.suppress(FileNotFoundError):
                number = os.open(whole, os.O_RDONLY | os.O_CLOEXEC)
                os.utime(number)  # by which the least recently used are known
                return number
            fetched = self._reserve(url, size, whole, part)
            if fetched is None:
                continue
            with fetched as file:  # which holds the lock on it
                try:
                    _persist(url, lambda system, path, file=file: _copy(system, path, file, url, size))
                    os.fsync(file)
                    with _locked(self.directory / "lock"):  # nobody is counting files meanwhile
                        os.replace(part, whole)
                except BaseException:
                    part.unlink(missing_ok=True)
                    raise

    def _reserve(self, url: str, size: int, whole: Path, part: Path) -> BinaryIO | None:
        """The file to fetch into, locked, its size taken from the room already; None: look again."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with _locked(self.directory / "lock"):
                busy = self._drop_dead()
                if whole.exists():
                    return None
                if part not in busy and self._make_room(url, size, waiting=bool(busy)):
                    file = open(part, "xb")  # noqa: SIM115  the caller's
                    fcntl.flock(file, fcntl.LOCK_EX)
                    file.truncate(size)
                    return file
        except OSError as error:
            raise UserError(
                f"MCL_CACHE_DIR {self.directory} cannot be written to ({error.strerror}); set it to a local directory"
            ) from None
        with contextlib.suppress(FileNotFoundError), open(part if part in busy else busy[0], "rb") as other:
            fcntl.flock(other, fcntl.LOCK_SH)  # until its process has fetched it
        return None

    def _drop_dead(self) -> list[Path]:
        """Unfinished files that a process is still fetching; the others are removed."""
        busy = []
        for part in sorted(self.directory.glob("*.part")):
            with contextlib.suppress(FileNotFoundError), open(part, "rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    part.unlink(missing_ok=True)
                except BlockingIOError:
                    busy.append(part)
        return busy

    def _make_room(self, url: str, size: int, waiting: bool) -> bool:
        """Evict until `size` bytes fit; False when what others are fetching has to be waited for."""
        held = [(path.stat(), path) for path in (*self.directory.glob("*.tar"), *self.directory.glob("*.part"))]
        used = sum(status.st_size for status, _ in held)
        for status, path in sorted(held, key=lambda entry: entry[0].st_mtime_ns):
            if used + size <= self.capacity:
                break
            if path.suffix == ".tar":
                path.unlink()
                used -= status.st_size
        if used + size > self.capacity and not waiting:
            raise UserError(f"{url} has {size} bytes, more than the whole cache may hold; raise MCL_CACHE_GIB")
        return used + size <= self.capacity


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _copy(system: Any, path: str, file: BinaryIO, url: str, size: int) -> None:
    file.seek(0)
    with system.open(path, "rb") as source:
        while file.tell() <= size and (chunk := source.read(CHUNK)):
            file.write(chunk)
    file.flush()
    if file.tell() < size:
        raise ConnectionError(f"it ended after {file.tell()} of {size} bytes")
    if file.tell() > size:
        raise UserError(f"{url} has more than the {size} bytes that it had when it was indexed; index the data again")


def _persist(url: str, work: Any) -> Any:
    """`work(file system, path)`, tried again after what may pass; `UserError` that names the URL."""
    for attempt in range(TRIES):
        try:
            return work(*_system(url))
        except UserError:
            raise
        except Exception as error:  # each file system raises its own
            if isinstance(error, OSError) and error.errno in FULL_DISK:
                raise
            lasting = isinstance(error, (ImportError, FileNotFoundError, PermissionError))
            if lasting or attempt == TRIES - 1:
                raise UserError(f"{url} cannot be read ({reason_of(error)})") from None
            time.sleep(2**attempt / 2)


def _system(url: str) -> tuple[Any, str]:
    # A file system made before a fork would not work after it.
    return fsspec.url_to_fs(url, skip_instance_cache=True)


def reason_of(error: Exception) -> str:
    """An error of any file system in one line."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return " ".join(f"{type(error).__name__}: {error}".split())
