"""The captions of a sample, of which there may be several: in a list, or under several keys."""

import json
from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate


def caption_keys(caption_key: str) -> list[str]:
    """The keys that `a;b` names, as open_clip's --json-text-key has them."""
    return [key.strip() for key in caption_key.split(";") if key.strip()]


def read_captions(data: bytes, caption_key: str | None) -> list[list[str]]:
    """The captions of a `.txt` file, or those under each key of `caption_key` in a `.json`: a text, or a list of texts.

    Blank ones are left out; a key without any has an empty list.
    """
    if caption_key is None:
        return [_texts(data.decode("utf-8", "replace"))]
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


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    # JSON may escape half a surrogate pair, which no tokenizer takes.
    texts = [text.encode("utf-8", "replace").decode() for text in values if isinstance(text, str)]
    return [text for text in texts if text.strip()]
