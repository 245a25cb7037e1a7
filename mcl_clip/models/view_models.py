"""What a step of the image objectives calls: two views of images to unit vectors, by the names that the losses take."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mcl_clip.models.image_model import ImageModel


class TwoViews(nn.Module):
    """SimCLR: views [B, 2, 3, H, W] to first_views and second_views [B, D], all of them in one pass."""

    def __init__(self, core: ImageModel) -> None:
        super().__init__()
        self.core = core

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        units = normalize(self.core.project(views.flatten(0, 1)), dim=-1)
        first, second = units.unflatten(0, views.shape[:2]).unbind(1)
        return {"first_views": first, "second_views": second}


class MomentumPair(nn.Module):
    """MoCo: views [B, 2, 3, H, W] to queries of the first by `core`, and keys of the second by a slower copy of it."""

    def __init__(self, core: ImageModel) -> None:
        super().__init__()
        self.core = core
        self.slow = copy.deepcopy(core).requires_grad_(False)

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        first, second = views.unbind(1)
        queries = normalize(self.core.project(first), dim=-1)
        with torch.no_grad():
            keys = normalize(self.slow.project(second), dim=-1)
        return {"queries": queries, "keys": keys}

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the copy's weights a step of 1 - momentum towards the model's; BatchNorm's statistics are its own."""
        for slow, fast in zip(self.slow.parameters(), self.core.parameters(), strict=True):
            slow.lerp_(fast, 1 - momentum)
