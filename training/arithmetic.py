"""How fast, and how exactly, devices multiply."""

import contextlib
from collections.abc import Iterator

import torch

from mcl_clip.openclip.precision import get_autocast, get_input_dtype


@contextlib.contextmanager
def fast_arithmetic(device: torch.device) -> Iterator[None]:
    """TF32 and cuDNN's search on NVIDIA devices, as open_clip_train sets them; put back after."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark = before


def pixel_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What a tower's first layer, a convolution, casts images to under one of open_clip's precisions."""
    with get_autocast(precision, device_type=device.type)():
        if torch.is_autocast_enabled(device.type):
            return torch.get_autocast_dtype(device.type)
    return get_input_dtype(precision) or torch.float32
