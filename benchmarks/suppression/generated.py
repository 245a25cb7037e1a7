"""The study's places: one generated world, one seed."""

from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.study.captioned import CaptionedPlace
from benchmarks.study.models import Model
from benchmarks.study.teaching import Images
from benchmarks.suppression import settings
from benchmarks.suppression.measures import embeddings, score, train_embeddings
from benchmarks.suppression.settings import MODEL
from benchmarks.suppression.world import World, labels_alike, make_world
from demo.features import FEATURES
from mcl_clip.artifacts import sha256_json
from mcl_clip.openclip.configs import get_model_config


@dataclass(frozen=True)
class Generated(CaptionedPlace):
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

    def tower(self, model: Model) -> dict[str, Any]:
        """The demo's, of the width that the shape asks for."""
        return get_model_config(MODEL) | {"embed_dim": self.shape.embed_dim}

    def images(self, world: World, model: Model) -> Images:
        """As they are."""
        return lambda rows, epoch: world.train.images[rows]

    def labels_alike(self, world: World, but: str) -> list[str]:
        """By the true values."""
        return labels_alike(world.train.values, but)

    train_embeddings = staticmethod(train_embeddings)
    embeddings = staticmethod(embeddings)
    score = staticmethod(score)
