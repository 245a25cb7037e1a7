"""Normalisation on the device: uint8 pixels to the numbers a tower takes."""

import torch
from torch import nn


class Normalize(nn.Module):
    """(pixel / 255 - mean) / std per channel: uint8 [b, 3, H, W] to `dtype`; floats pass as they are.

    Pixels may lie in planes or interleaved. Views [b, views, 3, H, W] too.
    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
    ):
        super().__init__()
        spread = torch.tensor(std).view(1, -1, 1, 1)
        self.register_buffer("scale", 1 / (255 * spread), persistent=False)
        self.register_buffer("shift", -torch.tensor(mean).view(1, -1, 1, 1) / spread, persistent=False)
        self.dtype = dtype
        self.format = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.ndim == 5:
            return self(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        if images.dtype == torch.uint8 and images.device.type == "cuda":
            return self.fused(images)
        if images.dtype == torch.uint8:  # step by step, in fp32: rounded alike wherever an image stands in the batch
            levels = torch.empty(images.shape, dtype=torch.float32, device=images.device, memory_format=self.format)
            images = levels.copy_(images).mul_(self.scale).add_(self.shift)
        return images.contiguous(memory_format=self.format).to(self.dtype)

    def fused(self, images: torch.Tensor) -> torch.Tensor:
        """The same in one kernel where the device casts inside it, as CUDA does: uint8 is read, `dtype` written."""
        normalised = torch.empty(images.shape, dtype=self.dtype, device=images.device, memory_format=self.format)
        return torch.addcmul(self.shift, images, self.scale, out=normalised)
