"""The study's places: pictures of which a model sees two views, and that nothing else is known of."""

from abc import abstractmethod
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.emoji.world import scored_key, world_key
from benchmarks.images import settings
from benchmarks.images.drawings import RARE, drawings_world
from benchmarks.images.implicit import ModifiedNTXent
from benchmarks.images.measures import embeddings, score, train_embeddings
from benchmarks.images.tower import PROJECTION, STRIDES, WIDTHS, Backbone
from benchmarks.images.trifeature import FEATURES
from benchmarks.images.world import World, make_world
from benchmarks.study.models import Model
from benchmarks.study.pixels import normalized
from benchmarks.study.place import Place
from benchmarks.study.teaching import Taught
from benchmarks.study.training import BatchLoss
from benchmarks.study.units import world_of
from mcl_clip import seeds
from mcl_clip.artifacts import sha256_json
from mcl_clip.loading.views import Augmentations, views_transform
from mcl_clip.loss import MCLNTXentLoss
from mcl_clip.models.view_models import TwoViews
from mcl_clip.plan.segments import SegmentLayout

KEPT = 256  # epochs of views in memory
VIEWS = 17  # sets the random numbers of views apart from all others
TOWER = [WIDTHS, STRIDES, PROJECTION]


class TwoViewPlace(Place):
    """SimCLR: mcl_clip's views, head and loss."""

    @abstractmethod
    def make_world(self) -> World:
        """All pictures."""

    def new_model(self, model: Model) -> Backbone:
        """Random weights of (seed, draw)."""
        with self.random_weights(model.draw):
            return Backbone()

    def lock(self, trained: Backbone, model: Model) -> None:
        """No model of this study has anything locked."""
        assert not model.locked

    def batch_loss(self, trained: Backbone, world: World, model: Model, taught: Taught | None) -> BatchLoss:
        """NT-Xent within segments, or with implicit feature modification."""
        assert isinstance(model, settings.ViewsModel) and taught is None
        both = TwoViews(trained)  # type: ignore[arg-type]
        plain = MCLNTXentLoss(temperature=model.temperature)
        modified = ModifiedNTXent(model.epsilon, model.temperature)

        def of_rows(rows: Tensor, epoch: int, layout: SegmentLayout) -> Tensor:
            views = all_views(self, model.augmentations, model.draw, epoch)[rows]
            units = both(normalized(views))
            return modified(**units) if model.epsilon else plain(**units, segments=layout)

        return of_rows

    train_embeddings = staticmethod(train_embeddings)
    embeddings = staticmethod(embeddings)
    score = staticmethod(score)


@dataclass(frozen=True)
class Trifeature(TwoViewPlace):
    """Everything is drawn from `shape` and the seed."""

    shape: settings.World = field(default_factory=settings.World)

    @property
    def name(self) -> str:
        """The world; one with another shape has another name."""
        if self.shape == settings.World():
            return "trifeature"
        return f"trifeature-{sha256_json(asdict(self.shape))[:8]}"

    @property
    def drawn(self) -> str:
        """Changes with the shape, the names of the values and the tower."""
        return sha256_json([asdict(self.shape), {name: list(values) for name, values in FEATURES.items()}, TOWER])[:12]

    @property
    def compared(self) -> str:
        """The same: all is drawn from one shape."""
        return self.drawn

    def make_world(self) -> World:
        """All samples."""
        return make_world(self.shape, self.seed)


@dataclass(frozen=True)
class Drawings(TwoViewPlace):
    """Emoji of all artists but one, who is scored; `data` is as benchmarks.emoji writes it."""

    data: Path
    artist: str = settings.ARTIST
    images: int = settings.World().images

    @property
    def name(self) -> str:
        """Emoji, and how many are trained on."""
        return f"emoji-{self.artist}-{self.images}"

    @property
    def drawn(self) -> str:
        """Changes with the drawings, with those that the probe takes of them, and with the tower."""
        return sha256_json([world_key(self.data, self.artist, 0.0), RARE, TOWER])[:12]

    @property
    def compared(self) -> str:
        """Changes with the held-out artist's as well."""
        return sha256_json([scored_key(self.data, self.artist, self.drawn)])[:12]

    def make_world(self) -> World:
        """All drawings."""
        return drawings_world(self.data, self.artist, self.images, self.seed)


@lru_cache(maxsize=KEPT)
def all_views(place: TwoViewPlace, augmentations: Augmentations, draw: int, epoch: int) -> Tensor:
    """uint8 [N, 2, 3, H, W] of the training set in an epoch.

    A view depends on (seed, draw, epoch, sample, view) alone, so models that share these share it.
    """
    images = world_of(place).train
    transform = views_transform({"size": images.shape[-1]}, augmentations)
    words = seeds.generator(place.seed, VIEWS, draw, epoch).integers(0, 2**64, (len(images), 1), np.uint64)
    return torch.stack([transform.of_image(image, own) for image, own in zip(images, words, strict=True)])
