"""The study's backbone: the demo's tower, narrower, its map averaged as a ResNet's is, and SimCLR's head."""

from torch import Tensor, nn

from mcl_clip.models.projection import Projection
from mcl_clip.models.tiny_conv import TinyConv

WIDTHS, STRIDES = (16, 16, 32, 64), (2, 2, 2, 1)
PROJECTION = 64


class Backbone(nn.Module):
    """Images [B, 3, 32, 32] to features [B, 128]."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = TinyConv(WIDTHS, STRIDES)
        self.projection = Projection("simclr", WIDTHS[-1], PROJECTION)

    def forward(self, images: Tensor) -> Tensor:
        return self.trunk.forward_features(images).mean((2, 3))

    def project(self, images: Tensor) -> Tensor:
        """What the head makes of the features, [B, 64]."""
        return self.projection(self(images))
