"""The study's places: one artist held out, one seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.emoji.measures import embeddings, score, train_embeddings
from benchmarks.emoji.world import MODEL, Moved, World, make_world, scored_key, world_key
from benchmarks.study.models import Model
from benchmarks.study.place import Place
from benchmarks.study.training import Images
from mcl_clip.openclip.configs import get_model_config
from mcl_clip.openclip.models import CLIP

FIT_SHARE = 0.1  # of all captions, set apart from every arm's training


@dataclass(frozen=True)
class HeldOut(Place):
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

    def new_model(self, draw: int) -> CLIP:
        """The demo's model."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 * self.seed + draw)
            return CLIP(**get_model_config(MODEL))

    def images(self, world: World, model: Model) -> Images:
        """Moved about on white."""
        return Moved(world.train, model.shift, self.seed, model.draw)

    def train_embeddings(self, model: CLIP, world: World) -> dict[str, Tensor]:
        """As float16."""
        return train_embeddings(model, world)

    def embeddings(self, model: CLIP, world: World) -> dict[str, Tensor]:
        """Of what is fitted on and scored."""
        return embeddings(model, world)

    def score(
        self, parts: Sequence[dict[str, Tensor]], world: World, fusion: str, weights: Sequence[float] | None = None
    ) -> dict[str, float]:
        """See `measures.score`."""
        return score(parts, world, fusion, weights)
