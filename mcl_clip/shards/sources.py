"""From what the user writes for --train-data to a list of tars, and their names in the data set."""

import glob
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from braceexpand import braceexpand

from mcl_clip.errors import UserError
from mcl_clip.shards.folders import Folders
from mcl_clip.shards.kinds import mend
from mcl_clip.shards.remote import expand_url, is_remote

MOST_REPEATS = 1000
FEW = 16  # paths that are looked up one by one; for more their folders are listed


def expand_sources(spec: str | Sequence[str | os.PathLike], flag: str = "--train-data") -> list[str]:
    """Tars that a spec names, in the order written; every one exists.

    A spec is a path, a brace pattern (`{00000..00012}.tar`), a glob (sorted), a directory (its *.tar,
    sorted), a URL that fsspec opens (braces and `*` too), several of these joined by `::`, or a list of these.
    Raises `UserError` for a part that matches nothing, a tar named twice, and anything else, naming `flag`. That a
    URL's tar is there shows when it is indexed.
    """
    return [tar for part in expand_parts(spec, flag) for tar in part]


def expand_parts(spec: str | Sequence[str | os.PathLike], flag: str = "--train-data") -> list[list[str]]:
    """The tars of each part of a spec of `expand_sources`."""
    folders = Folders()
    found = [_expand(part, flag, folders) for part in (spec.split("::") if isinstance(spec, str) else map(str, spec))]
    if not any(found):
        raise UserError(f"{flag} names no tar; give a path, a brace pattern or a directory of tars")
    total = sum(map(len, found))
    for folder in {os.path.dirname(tar) for part in found for tar in part if not is_remote(tar)} if total > FEW else ():
        folders.files(folder)
    seen = set()
    for path in (tar if is_remote(tar) else folders.real(tar) for part in found for tar in part):
        if path in seen:
            raise UserError(
                f"{flag} names {path} twice; name it once, and how often it is taken with "
                "--train-data-upsampling-factors"
            )
        seen.add(path)
    return found


def repeat_counts(factors: str) -> list[int]:
    """The counts of `2::1`, one a source, as open_clip writes its factors; `UserError` unless whole and positive."""
    parts = factors.split("::")
    if not all(part.isascii() and part.isdecimal() and 0 < int(part) <= MOST_REPEATS for part in parts):
        raise UserError(
            f"--train-data-upsampling-factors {factors}: give a whole number from 1 to {MOST_REPEATS} for each source, "
            "such as 2::1; an epoch takes every sample exactly so often, which fractions do not say"
        )
    return [int(part) for part in parts]


def manifest_directory(spec: str | Sequence[str]) -> Path | None:
    """The directory that `spec` names when it already holds a manifest.json, else None."""
    parts = [spec] if isinstance(spec, str) else list(spec)
    if len(parts) == 1 and (Path(parts[0]) / "manifest.json").is_file():
        return Path(parts[0])
    return None


def name_sources(paths: Sequence[str]) -> list[str]:
    """Names of tars in a data set: as many trailing path components as tell all of them apart, without .tar.

    `a/00000.tar, a/00001.tar` are `00000, 00001`; `a/00000.tar, b/00000.tar` are `a/00000, b/00000`.
    """
    split = [_location(path).removesuffix(".tar").split("/") for path in paths]
    for depth in range(1, max(map(len, split), default=0) + 1):
        names = ["/".join(components[-depth:]) for components in split]
        if len(set(names)) == len(names):
            return names
    assert not paths, "expand_sources lets no tar through twice"
    return []


def absolute(path: str) -> str:
    """A path from the root of the file system; a URL as it is."""
    if is_remote(path):
        return path
    folder, _, name = path.rpartition("/")
    if not folder.startswith("/") or name in ("", ".", ".."):
        return os.path.abspath(path)
    normal = _normal(folder)
    return path if normal == folder else f"{normal.rstrip('/')}/{name}"


_normal = lru_cache(maxsize=1024)(os.path.normpath)  # millions of tars lie in few folders


def _location(path: str) -> str:
    return path.partition("://")[2].partition("?")[0] if is_remote(path) else absolute(path)


def _expand(part: str, flag: str, folders: Folders) -> list[str]:
    scheme = re.match(r"(\w+):", part)
    if scheme and not is_remote(part):
        raise UserError(f"{flag} {part}: paths and URLs can be read, not {scheme[1]}:; copy or mount the data")
    try:
        patterns = list(braceexpand(part))
    except ValueError:
        raise UserError(f"{flag} {part}: braces do not match") from None
    found = []
    for pattern in patterns:
        if is_remote(pattern):
            matches = expand_url(pattern)
        elif len(patterns) > FEW and folders.holds(pattern):
            matches = [pattern]
        elif os.path.isdir(pattern):
            matches = sorted(
                os.path.join(pattern, name)
                for name in folders.files(pattern)
                if name.endswith(".tar") and name[0] != "."
            )
        elif os.path.exists(pattern):
            matches = [pattern]
        else:
            matches = sorted(glob.glob(pattern))
        other = None if is_remote(pattern) or pattern.endswith(".tar") else mend(pattern)
        if other:
            raise UserError(f"{flag} {other}")
        if not matches:
            raise UserError(f"{flag} {pattern}: no such tar, and no directory with *.tar in it")
        found.extend(matches)
    return found
