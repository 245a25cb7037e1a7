"""Pixels as the studies' towers read them."""

import torch
from torch import Tensor

from mcl_clip.openclip.transforms import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD


def normalized(images: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] to open_clip's float input."""
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    return (images.float() / 255 - mean) / std
