"""What is trained of the two real towers: the image tower's last blocks, and a projection each."""

import math
from copy import deepcopy

import torch
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.emoji.towers import UNLOCKED

EMBED = 128
CHUNK = 64
TEXT_WIDTH = 384


class Tail(nn.Module):
    """float maps [N, C, H, W] and text vectors [N, 384] to embeddings [N, EMBED]; statistics of BatchNorm stay."""

    def __init__(self, trunk: EfficientNet):
        super().__init__()
        blocks = deepcopy(trunk.blocks[len(trunk.blocks) - UNLOCKED :])
        self.blocks = nn.Sequential(*blocks, *map(deepcopy, (trunk.conv_head, trunk.bn2, trunk.global_pool)))
        self.image_projection = nn.Linear(trunk.num_features, EMBED, bias=False)
        self.text_projection = nn.Linear(TEXT_WIDTH, EMBED, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def train(self, mode: bool = True) -> "Tail":
        """Frozen statistics: with few drawings a batch they would follow the pseudo-label, not the data."""
        super().train(mode)
        for module in self.blocks.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def encode_image(self, maps: Tensor) -> Tensor:
        """Raw image embeddings; by so few that what the blocks widen stays in a core's cache."""
        return self.image_projection(torch.cat([self.blocks(part) for part in maps.split(CHUNK)]))

    def encode_text(self, vectors: Tensor) -> Tensor:
        """Raw text embeddings."""
        return self.text_projection(vectors)

    def forward(self, maps: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit embeddings, and the scale of logits."""
        images, texts = self.encode_image(maps), self.encode_text(vectors)
        return F.normalize(images, dim=-1), F.normalize(texts, dim=-1), self.logit_scale.exp()
