"""What is trained: models that are known by how they came to be, so that whatever shares one trains it once."""

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from benchmarks.study.training import Recipe
from mcl_clip.artifacts import sha256_json


@dataclass(frozen=True, kw_only=True)
class Negatives:
    """Pseudo-labels from `clusters` clusters of each of `models`, by what they say of the `of`: images, texts, ...

    shuffled: the same labels, dealt to the samples at random. alike: no clusters, but labels under which samples agree
    in all that is known of them but this (an oracle).
    """

    models: tuple["Model", ...] = ()
    clusters: int = 0
    of: str = "images"
    shuffled: bool = False
    alike: str = ""


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """`models`, fused by concatenation, whose similarities a student learns.

    contrastive: how often the student's own loss counts beside them. scale: what the fused model's scale of logits is
    multiplied by.
    """

    models: tuple["Model", ...]
    contrastive: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Model:
    """One model to train from `start` (None: random weights, drawn by `draw`, as is everything random of it).

    mean_of: it starts from the mean of these models' weights instead. teacher: it learns from these.
    shift: pictures are moved by up to so many pixels, anew in every epoch. hardness: beta of hard-negative NCE. locked:
    the text tower and the first half of the image tower stay as they start. projections: all stays but the projections.
    wide: towers and embeddings that cost about twice.
    """

    recipe: Recipe
    draw: int = 0
    start: "Model | None" = None
    negatives: Negatives | None = None
    shift: int = 0
    hardness: float = 0.0
    locked: bool = False
    projections: bool = False
    wide: bool = False
    mean_of: tuple["Model", ...] = ()
    teacher: Teacher | None = None

    @property
    def needs(self) -> tuple["Model", ...]:
        """Models that must be trained before."""
        clustered = self.negatives.models if self.negatives else ()
        taught = self.teacher.models if self.teacher else ()
        return tuple(dict.fromkeys((*((self.start,) if self.start else ()), *self.mean_of, *clustered, *taught)))

    def record(self) -> dict[str, Any]:
        """Plain values, with those of all models it comes from."""
        return asdict(self, dict_factory=_without_absent)

    @cached_property
    def key(self) -> str:
        """Changes with anything that the model depends on but seed and data."""
        return sha256_json(self.record())[:12]


def _without_absent(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """What most models do not have is left out where it is absent: their keys are older than it."""
    return {name: value for name, value in fields if value or name not in ("mean_of", "teacher", "projections", "wide")}


@dataclass(frozen=True)
class Arm:
    """Models that are fused and scored as one."""

    name: str
    models: tuple[Model, ...]

    @cached_property
    def key(self) -> str:
        """Changes with the models alone."""
        return sha256_json([model.key for model in self.models])[:12]

    @property
    def slug(self) -> str:
        """The name for a file."""
        return re.sub("[^a-z0-9]+", "_", self.name.lower())

    @property
    def epochs(self) -> int:
        """Compute."""
        return sum(model.recipe.epochs for model in self.models)


def with_needs(models: tuple[Model, ...]) -> Iterator[Model]:
    """`models` and all that they come from, each after what it needs, perhaps more than once."""
    for model in models:
        yield from with_needs(model.needs)
        yield model
