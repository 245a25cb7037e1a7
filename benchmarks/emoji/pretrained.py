"""The places of the real towers: the same artists, held out of what is trained of two pretrained towers."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.emoji.frozen import Frozen
from benchmarks.emoji.held_out import HeldOut
from benchmarks.emoji.settings import REAL_TOWERS, place_name
from benchmarks.emoji.tail import EMBED, Tail
from benchmarks.emoji.towers import KEY, SIDE, image_trunk
from benchmarks.emoji.world import World, make_world
from benchmarks.study.models import Model
from benchmarks.study.teaching import Images
from mcl_clip.artifacts import sha256_json


@dataclass(frozen=True)
class Pretrained(HeldOut):
    """`towers` holds the wheels' members, `kept` what `freeze` wrote; `data` is drawn at the image tower's size."""

    towers: Path = field(kw_only=True)
    kept: Path = field(kw_only=True)

    @property
    def name(self) -> str:
        """The artist, and that these are other models than those from scratch."""
        return place_name(REAL_TOWERS, self.artist)

    @property
    def drawn(self) -> str:
        """Changes with the training drawings and the towers."""
        towers = [KEY, SIDE, EMBED]
        return sha256_json([super().drawn, towers])[:12]

    def make_world(self) -> World:
        """Maps before the first unlocked block for images, the text tower's vectors for token ids."""
        frozen = Frozen(self.kept)
        return make_world(self.data, self.artist, self.seed, self.fit_share, frozen.drawings, frozen.texts)

    def new_model(self, model: Model) -> Tail:
        """Pretrained blocks, and projections of (seed, draw)."""
        with self.random_weights(model.draw):
            return Tail(_trunk(self.towers))

    def lock(self, trained: Any, model: Model) -> None:
        """All but the projections, or the text tower's: what else would be locked is frozen before the tail."""
        trained.blocks.requires_grad_(not model.projections)
        trained.text_projection.requires_grad_(not model.locked)

    def see(self, images: Tensor) -> Tensor:
        """Maps."""
        return images.float()

    def images(self, world: World, model: Model) -> Images:
        """As the frozen blocks saw them."""
        return lambda rows, epoch: self.see(world.train[rows])


@lru_cache(maxsize=1)
def _trunk(towers: Path) -> Any:
    return image_trunk(towers)
