"""What a study is about: a world and a seed, what is trained on there and what is scored."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from benchmarks.study.models import Arm, Model
from benchmarks.study.teaching import Taught
from benchmarks.study.training import BatchLoss

CHUNK = 500


@dataclass(frozen=True)
class Place(ABC):
    """Models stand below `models`, the small results below `scores`. A world's length is that of its training set."""

    models: Path
    scores: Path
    seed: int
    has_captions: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """Of the world, among those of the study."""

    @property
    @abstractmethod
    def drawn(self) -> str:
        """Changes with the training set."""

    @property
    @abstractmethod
    def compared(self) -> str:
        """Changes with the training set and with what is scored."""

    @abstractmethod
    def make_world(self) -> Any:
        """The training set, with all that is scored."""

    @abstractmethod
    def new_model(self, model: Model) -> Any:
        """A module for `model`, with random weights of (seed, its draw)."""

    @contextlib.contextmanager
    def random_weights(self, draw: int) -> Iterator[None]:
        """Weights that are made inside are of (seed, draw)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 * self.seed + draw)
            yield

    @abstractmethod
    def lock(self, trained: Any, model: Model) -> None:
        """Freeze what `model` says stays as it starts."""

    @abstractmethod
    def batch_loss(self, trained: Any, world: Any, model: Model, taught: Taught | None) -> BatchLoss:
        """What `trained` is trained for, as `model` says; taught: of a student."""

    @abstractmethod
    def train_embeddings(self, model: Any, world: Any) -> dict[str, Tensor]:
        """Raw embeddings "train" of images, and "train_..." of all else that pseudo-labels are made of."""

    @abstractmethod
    def embeddings(self, model: Any, world: Any) -> dict[str, Tensor]:
        """Raw embeddings of all else: what `score` reads, and what is fitted on."""

    @abstractmethod
    def score(
        self, parts: Sequence[dict[str, Tensor]], world: Any, fusion: str, weights: Sequence[float] | None = None
    ) -> dict[str, float]:
        """Fractions by name."""

    def labels_alike(self, world: Any, but: str) -> list[str]:
        """Labels under which training samples agree in all that is known of them but this."""
        raise ValueError(f"nothing is known of the samples of {self.name}, so not {but!r} either")

    @property
    def trained(self) -> Path:
        """Where the models stand."""
        return self.models / self.name / f"seed_{self.seed}-{self.drawn}"

    def scored(self, arm: Arm) -> Path:
        """The results of one arm."""
        return self.scores / self.name / f"seed_{self.seed}" / f"{arm.slug}-{arm.key}.json"


def embed_images(model: Any, images: Tensor) -> Tensor:
    """Raw image embeddings [N, D] of input images."""
    parts = [model.encode_image(chunk) for chunk in images.split(CHUNK)] if len(images) else []
    return torch.cat(parts) if parts else torch.zeros(0, 0)
