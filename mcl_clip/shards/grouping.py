"""From the members of a tar to samples: where a key ends and an extension begins."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from mcl_clip.shards.offsets import IMAGE_EXTENSIONS
from mcl_clip.shards.tar import Member, TarError, members


@dataclass
class Sample:
    """Adjacent members of one key; extensions in lower case, without the dot."""

    key: str
    members: list[Member]
    extensions: list[str]


def samples(buffer: Any, caption_extension: str = "txt", strays: list[str] | None = None) -> Iterator[Sample]:
    """The samples of a tar, in order; names of files without an extension are appended to `strays`.

    WebDataset's rule: a key ends at the first dot of the base name. Where an image and a caption have the same name up
    to their *last* dot, that is their key (`v2.0 a.jpg`, `v2.0 a.txt`); other members belong to the longest such key
    that they continue (`a.seg.png` to `a`). Numbered captions (`a.0.txt`) are captions of `a`. Files that belong to no
    sample: hidden ones (`._a.jpg` of macOS), those without an extension, `__meta__`. Raises `TarError` for a member
    twice in a sample, members of a sample that are not adjacent, and names that leave the directory.
    """
    named = (member for member in members(buffer) if _belongs(member.name, strays))
    for key, group in groupby(named, lambda member: _first_dot(member.name)):
        yield from _split(key, list(group), caption_extension)


def members_of(buffer: Any, start: int, stop: int, key: str) -> list[Member]:
    """The members of the sample `key` that lies in `buffer[start:stop]`."""
    found = members(buffer, start, stop, archive=False)
    return [member for member in found if member.name.startswith(f"{key}.")]


def _belongs(name: str, strays: list[str] | None) -> bool:
    if not is_utf8(name):
        raise TarError(f"member name {name!r} is not UTF-8")
    if name.startswith("/") or (".." in name and ".." in name.split("/")):
        raise TarError(f"member {name!r} leaves the directory")
    if is_hidden(name):
        return False
    has_extension = "." in _base(name)
    if not has_extension and strays is not None:
        strays.append(name)
    return has_extension


def _split(key: str, group: list[Member], caption_extension: str) -> Iterator[Sample]:
    """One sample where the first dots tell, several where the last ones do."""
    kinds: dict[str, set[str]] = {}
    for member in group:
        stem, _, extension = member.name.rpartition(".")
        if extension.lower() in IMAGE_EXTENSIONS:
            kinds.setdefault(stem, set()).add("image")
        elif extension.lower() == caption_extension:
            kinds.setdefault(stem, set()).add("caption")
            if stem.rpartition(".")[2].isdecimal():
                kinds.setdefault(stem.rpartition(".")[0], set()).add("caption")
    agreed = {stem for stem, found in kinds.items() if len(found) == 2}
    if agreed <= {key}:
        yield _sample(key, group)
        return
    runs = [(owner, list(run)) for owner, run in groupby(group, lambda member: _owner(member.name, key, agreed))]
    if len({owner for owner, _ in runs}) == len(runs):
        for owner, run in runs:
            yield _sample(owner, run)
    elif key in agreed:
        yield _sample(key, group)
    else:
        raise TarError(f"members of key {runs[0][0]!r} and those after it are not adjacent")


def _owner(name: str, key: str, agreed: set[str]) -> str:
    """The longest agreed key that a name continues, else what stands before its last dot."""
    stem = name
    while stem != key:
        stem = stem.rpartition(".")[0]
        if stem in agreed:
            return stem
    return name.rpartition(".")[0]


def _sample(key: str, group: Sequence[Member]) -> Sample:
    sample = Sample(key, list(group), [member.name[len(key) + 1 :].lower() for member in group])
    seen: set[str] = set()
    for member, extension in zip(group, sample.extensions, strict=True):
        if extension in seen:
            raise TarError(f"member {member.name!r} occurs twice")
        seen.add(extension)
    return sample


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _first_dot(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def is_hidden(name: str) -> bool:
    """Hidden by a dot, or named as WebDataset names what describes a tar: `__name__`, or in a folder of that name."""
    head = name.partition("/")[0]
    return _base(name).startswith(".") or (head.startswith("__") and len(head) > 3 and head.endswith("__"))


def is_utf8(text: str) -> bool:
    """Whether text holds none of the surrogates by which Python keeps bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
