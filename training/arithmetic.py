"""How fast, and how exactly, devices multiply."""

import contextlib
from collections.abc import Iterator

import torch


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
