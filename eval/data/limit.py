"""Some of a set, evenly spread over it, for a quick look."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from eval.data.classification_set import ClassificationSet
from eval.data.images import Sample
from eval.data.retrieval_set import RetrievalSet
from eval.data.sugarcrepe import Category

T = TypeVar("T")
Captioned = TypeVar("Captioned", RetrievalSet, Category)


def spread(size: int, limit: int | None) -> list[int]:
    """Places of `limit` among `size`, evenly spread and rising; all of them without a limit or below it."""
    count = size if limit is None else min(size, limit)
    return [place * size // count for place in range(count)]


def some(things: Sequence[T], limit: int | None) -> list[T]:
    """Those at the places of `spread`."""
    return [things[place] for place in spread(len(things), limit)]


def some_images(data: ClassificationSet, limit: int | None) -> ClassificationSet:
    """The set with the images at the places of `spread`, and all its classes."""
    places = spread(data.size, limit)
    return data if limit is None else replace(data, size=len(places), samples=_at(data.samples, places))


def some_captioned(data: Captioned, limit: int | None) -> Captioned:
    """The set with the images at the places of `spread` and their captions."""
    places = spread(len(data.captions), limit)
    captions = tuple(data.captions[place] for place in places)
    return data if limit is None else replace(data, captions=captions, samples=_at(data.samples, places))


def _at(samples: Callable[[], Iterator[Sample]], places: Sequence[int]) -> Callable[[], Iterator[Sample]]:
    kept = set(places)
    return lambda: (sample for place, sample in enumerate(samples()) if place in kept)
