"""The captions of a sample, of which there may be several: numbered files, a list, or several keys."""

import json
import re
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate

from mcl_clip.shards.grouping import is_hidden
from mcl_clip.shards.tar import BLOCK, TarError, members

NUMBERED = re.compile(r"(?:.*\.)?(\d+)\.txt", re.DOTALL)
"""Of captions beside an image: `.0.txt`, `.1.txt`, ..."""
NO_CAPTIONS = ""
"""The caption key of data that is read for its images alone."""


def told(caption_key: str | None) -> str:
    """Where captions come from, in words."""
    return "nowhere" if caption_key == NO_CAPTIONS else caption_key or ".txt"


def caption_keys(caption_key: str) -> list[str]:
    """The keys that `a;b` names, as open_clip's --json-text-key has them."""
    return [key.strip() for key in caption_key.split(";") if key.strip()]


def read_captions(data: bytes, caption_key: str | None) -> list[list[str]]:
    """The captions of a `.txt` file, or those under each key of `caption_key` in a `.json`: a text, or a list of texts.

    Instead of a `.txt` file, `data` may be the members `.0.txt`, `.1.txt`, ... with their tar headers: all are read,
    by number. Blank ones are left out; a key without any has an empty list.
    """
    if caption_key is None:
        return [_texts([file.decode("utf-8", "replace") for file in _files(data)])]
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        content = None
    return [_texts(content.get(key) if isinstance(content, dict) else None) for key in caption_keys(caption_key)]


def first_caption(captions: Sequence[Sequence[str]]) -> str | None:
    """The first caption of the first key that has any."""
    return next((texts[0] for texts in captions if texts), None)


def draw_caption(captions: Sequence[Sequence[str]], word: int, probs: Sequence[float] | None = None) -> str | None:
    """One caption, a pure function of a random 64-bit `word`; None when there is none.

    Its key is the first that has any, or with `probs` drawn by these weights among those that have some; keys of
    weight 0, or beyond the weights, stand in when no other has. This is the distribution of open_clip's
    --json-text-key-probs. Within a key all captions are equally likely.
    """
    present = [(index, texts) for index, texts in enumerate(captions) if texts]
    if not present:
        return None
    weights = [probs[index] if probs and index < len(probs) else 0.0 for index, _ in present]
    high, low = divmod(word, 1 << 32)
    total = sum(weights)
    chosen = bisect(list(accumulate(weights)), total * (high / 2**32)) if total else 0
    texts = present[min(chosen, len(present) - 1)][1]
    return texts[low * len(texts) >> 32]


def _files(data: bytes) -> list[bytes]:
    """The files in a piece of a tar, by number; text that is none is one file."""
    if not data or len(data) % BLOCK:
        return [data]
    try:
        listed = [member for member in members(data, archive=False) if not is_hidden(member.name)]
    except TarError:
        return [data]
    found = [(NUMBERED.fullmatch(member.name.lower()), member) for member in listed]
    numbered = sorted((int(match[1]), member.data, member.size) for match, member in found if match)
    return [data[start : start + size] for _, start, size in numbered]


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    # JSON may escape half a surrogate pair, which no tokenizer takes.
    texts = [text.encode("utf-8", "replace").decode() for text in values if isinstance(text, str)]
    return [text for text in texts if text.strip()]
