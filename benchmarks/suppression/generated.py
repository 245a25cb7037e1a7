"""The study's places: one generated world, one seed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from benchmarks.study.models import Model
from benchmarks.study.place import Place
from benchmarks.study.training import Images
from benchmarks.suppression import settings
from benchmarks.suppression.measures import embeddings, score, train_embeddings
from benchmarks.suppression.settings import MODEL
from benchmarks.suppression.world import World, labels_alike, make_world
from demo.features import FEATURES
from mcl_clip.artifacts import sha256_json
from mcl_clip.openclip.configs import get_model_config
from mcl_clip.openclip.models import CLIP


@dataclass(frozen=True)
class Generated(Place):
    """Everything is drawn from `shape` and the seed."""

    shape: settings.World = field(default_factory=settings.World)

    @property
    def name(self) -> str:
        """The world; one with another shape has another name."""
        if self.shape == settings.World():
            return "generated"
        return f"generated-{sha256_json(asdict(self.shape))[:8]}"

    @property
    def drawn(self) -> str:
        """Changes with the shape, the features and the tower."""
        features = [asdict(feature) for feature in FEATURES]
        return sha256_json([asdict(self.shape), get_model_config(MODEL), features])[:12]

    @property
    def compared(self) -> str:
        """The same: all is drawn from one shape."""
        return self.drawn

    def make_world(self) -> World:
        """All samples."""
        return make_world(self.shape, self.seed)

    def new_model(self, draw: int) -> CLIP:
        """The demo's model, of the width that the shape asks for."""
        return new_model(self.shape.embed_dim, self.seed, draw)

    def images(self, world: World, model: Model) -> Images:
        """As they are."""
        return lambda rows, epoch: world.train.images[rows]

    def train_embeddings(self, model: CLIP, world: World) -> dict[str, Tensor]:
        """Of images."""
        return train_embeddings(model, world)

    def embeddings(self, model: CLIP, world: World) -> dict[str, Tensor]:
        """Of what is fitted on and scored."""
        return embeddings(model, world)

    def score(
        self, parts: Sequence[dict[str, Tensor]], world: World, fusion: str, weights: Sequence[float] | None = None
    ) -> dict[str, float]:
        """See `measures.score`."""
        return score(parts, world, fusion, weights)

    def labels_alike(self, world: World, but: str) -> list[str]:
        """By the true values."""
        return labels_alike(world.train.values, but)


def new_model(embed_dim: int, seed: int, draw: int) -> CLIP:
    """The demo's model with random weights of (seed, draw)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 * seed + draw)
        return CLIP(**get_model_config(MODEL) | {"embed_dim": embed_dim})
