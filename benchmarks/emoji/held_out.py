"""The study's places: one artist held out, one seed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.emoji.measures import embeddings, score, train_embeddings
from benchmarks.emoji.wide import WIDE
from benchmarks.emoji.world import MODEL, Moved, World, make_world, normalized, scored_key, world_key
from benchmarks.study.captioned import CaptionedPlace
from benchmarks.study.models import Model
from benchmarks.study.teaching import Images
from mcl_clip.openclip.configs import get_model_config

FIT_SHARE = 0.1  # of all captions, set apart from every arm's training


@dataclass(frozen=True)
class HeldOut(CaptionedPlace):
    """`artist` is scored, all others are trained on; `data` is as `generate` wrote it."""

    data: Path
    artist: str
    fit_share: float = FIT_SHARE

    @property
    def name(self) -> str:
        """The artist."""
        return self.artist

    @property
    def drawn(self) -> str:
        """Changes with the training drawings."""
        return world_key(self.data, self.artist, self.fit_share)

    @property
    def compared(self) -> str:
        """Changes with these, and with what is scored."""
        return scored_key(self.data, self.artist, self.drawn)

    def make_world(self) -> World:
        """All drawings."""
        return make_world(self.data, self.artist, self.seed, self.fit_share)

    def tower(self, model: Model) -> dict[str, Any]:
        """The demo's."""
        return WIDE if model.wide else get_model_config(MODEL)

    def images(self, world: World, model: Model) -> Images:
        """Moved about on white."""
        return Moved(world.train, model.shift, self.seed, model.draw)

    def see(self, images: Tensor) -> Tensor:
        """A model's input of what stands for images in the world."""
        return normalized(images)

    def train_embeddings(self, model: Any, world: World) -> dict[str, Tensor]:
        """Of images and of texts."""
        return train_embeddings(model, world, self.see)

    def embeddings(self, model: Any, world: World) -> dict[str, Tensor]:
        """Of the fit set, and of what is scored."""
        return embeddings(model, world, self.see)

    score = staticmethod(score)
