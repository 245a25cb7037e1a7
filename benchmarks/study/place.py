"""What a study is about: a world and a seed, what is trained on there and what is scored."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from benchmarks.study.models import Arm, Model
from benchmarks.study.training import Images
from mcl_clip.openclip.models import CLIP

CHUNK = 500


class World(Protocol):
    """The training set: token ids int64 [N, context], captions, and captions that no arm is trained on."""

    tokens: Tensor
    captions: list[str]
    fit_captions: list[str]


@dataclass(frozen=True)
class Place(ABC):
    """Models stand below `models`, the small results below `scores`."""

    models: Path
    scores: Path
    seed: int

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
        """A `World`, with all that is scored."""

    @property
    @abstractmethod
    def tower(self) -> dict[str, Any]:
        """The model's configuration, as open_clip's."""

    @abstractmethod
    def images(self, world: Any, model: Model) -> Images:
        """The training images as `model` sees them."""

    @abstractmethod
    def train_embeddings(self, model: CLIP, world: Any) -> dict[str, Tensor]:
        """Raw embeddings "train" and "train_texts", of which pseudo-labels are made."""

    @abstractmethod
    def embeddings(self, model: CLIP, world: Any) -> dict[str, Tensor]:
        """Raw embeddings of all else: "fit" and "fit_texts", and what `score` reads."""

    @abstractmethod
    def score(
        self, parts: Sequence[dict[str, Tensor]], world: Any, fusion: str, weights: Sequence[float] | None = None
    ) -> dict[str, float]:
        """Fractions by name."""

    def labels_alike(self, world: Any, but: str) -> list[str]:
        """Labels under which training samples agree in all that is known of them but this."""
        raise ValueError(f"nothing is known of the samples of {self.name}, so not {but!r} either")

    def new_model(self, draw: int) -> CLIP:
        """Random weights of (seed, draw)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 * self.seed + draw)
            return CLIP(**self.tower)

    @property
    def trained(self) -> Path:
        """Where the models stand."""
        return self.models / self.name / f"seed_{self.seed}-{self.drawn}"

    def scored(self, arm: Arm) -> Path:
        """The results of one arm."""
        return self.scores / self.name / f"seed_{self.seed}" / f"{arm.slug}-{arm.key}.json"


def embed_images(model: CLIP, images: Tensor) -> Tensor:
    """Raw image embeddings [N, D] of input images."""
    parts = [model.encode_image(chunk) for chunk in images.split(CHUNK)] if len(images) else []
    return torch.cat(parts) if parts else torch.zeros(0, 0)


def embed_texts(model: CLIP, tokens: Tensor) -> Tensor:
    """Raw text embeddings [N, D]; what is said more than once is encoded once."""
    if not len(tokens):
        return torch.zeros(0, 0)
    unique, inverse = tokens.unique(dim=0, return_inverse=True)
    return torch.cat([model.encode_text(chunk) for chunk in unique.split(CHUNK)])[inverse]
