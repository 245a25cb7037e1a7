"""Joining the process group that torchrun or SLURM describes."""

import torch
from open_clip_train.distributed import init_distributed_device as init_distributed_device
from open_clip_train.distributed import init_distributed_device_so as init_distributed_device_so

from mcl_clip.errors import UserError


def check_device(name: str) -> None:
    """`UserError` where this machine has no such device: those above would take the CPU, with a warning."""
    try:
        kind = torch.device(name).type
    except RuntimeError:
        raise UserError(f"--device is {name!r}; give cpu, cuda or cuda:1, say") from None
    if kind == "cuda" and not torch.cuda.is_available():  # none is touched yet: each rank has one of its own
        raise UserError(f"--device is {name!r}, but PyTorch sees no GPU here; give --device cpu")
    if kind not in ("cpu", "cuda"):
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError, ImportError):
            raise UserError(f"--device is {name!r}, which this PyTorch cannot use here; give --device cpu") from None
