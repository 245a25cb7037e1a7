"""Places whose samples are an image and a caption: open_clip's towers, and mcl_clip's loss of both."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from benchmarks.study.hard_negatives import HardNegatives
from benchmarks.study.models import Model
from benchmarks.study.place import CHUNK, Place
from benchmarks.study.teaching import Images, Taught
from benchmarks.study.training import BatchLoss
from mcl_clip.loss.clip import MCLClipLoss
from mcl_clip.openclip.models import CLIP
from mcl_clip.plan.segments import SegmentLayout

UNLOCKED_GROUPS = 2  # of the image tower of a locked model
Loss = Callable[[Tensor, Tensor, Tensor, SegmentLayout, Tensor], Tensor]
"""Of unit features of images and texts [n, D], logit scale, layout and token ids."""


class CaptionedWorld(Protocol):
    """Token ids int64 [N, context] of the training set, and captions that no arm is trained on."""

    tokens: Tensor
    fit_captions: list[str]

    def __len__(self) -> int: ...


class CaptionedPlace(Place):
    """`embeddings` has "fit" and "fit_texts", of the samples that weights are fitted on."""

    has_captions: ClassVar[bool] = True

    @abstractmethod
    def tower(self, model: Model) -> dict[str, Any]:
        """The configuration of `model`, as open_clip's."""

    @abstractmethod
    def images(self, world: Any, model: Model) -> Images:
        """The training images as `model` sees them."""

    def new_model(self, model: Model) -> CLIP:
        """Random weights of (seed, draw)."""
        with self.random_weights(model.draw):
            return CLIP(**self.tower(model))

    def lock(self, trained: CLIP, model: Model) -> None:
        """The text tower and all but the last groups of the image tower."""
        if model.locked:
            trained.lock_image_tower(unlocked_groups=UNLOCKED_GROUPS)
            trained.lock_text_tower()

    def batch_loss(self, trained: CLIP, world: CaptionedWorld, model: Model, taught: Taught | None) -> BatchLoss:
        """`MCLClipLoss`, that of hard negatives, or a student's."""
        images = self.images(world, model)
        loss: Loss = HardNegatives(model.hardness) if model.hardness else _mcl_loss(model.recipe.mask_identical)

        def of_rows(rows: Tensor, epoch: int, layout: SegmentLayout) -> Tensor:
            tokens = world.tokens[rows]
            image_features, text_features, scale = trained(images(rows, epoch), tokens)
            if taught:
                return taught(image_features, text_features, scale, layout, rows, epoch)
            return loss(image_features, text_features, scale, layout, tokens)

        return of_rows


def embed_texts(model: CLIP, tokens: Tensor) -> Tensor:
    """Raw text embeddings [N, D]; what is said more than once is encoded once."""
    if not len(tokens):
        return torch.zeros(0, 0)
    unique, inverse = tokens.unique(dim=0, return_inverse=True)
    return torch.cat([model.encode_text(chunk) for chunk in unique.split(CHUNK)])[inverse]


def _mcl_loss(mask_identical: bool) -> Loss:
    loss = MCLClipLoss(mask_identical=mask_identical)

    def call(images: Tensor, texts: Tensor, scale: Tensor, layout: SegmentLayout, ids: Tensor) -> Tensor:
        return loss(images, texts, scale, segments=layout, text_ids=ids if mask_identical else None)

    return call
