"""Features and captions of all ranks, in position order."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def gather_all(local: Tensor, world_size: int) -> Tensor:
    """[n, ...] of every rank, one after another: [n * world_size, ...]; no gradient."""
    local = local.detach().contiguous()
    everything = local.new_empty(len(local) * world_size, *local.shape[1:])
    dist.all_gather(list(everything.chunk(world_size)), local)
    return everything


def gather_with_own_gradient(local: Tensor, rank: int, world_size: int) -> Tensor:
    """As `gather_all`; gradients reach this rank's own part only (open_clip without gather_with_grad)."""
    parts = list(gather_all(local, world_size).chunk(world_size))
    parts[rank] = local
    return torch.cat(parts)


def gather_with_gradient(local: Tensor, world_size: int) -> Tensor:
    """As `gather_all`; the gradient of each part is summed over the ranks and returned to its owner."""
    return _Gather.apply(local, world_size)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, local: Tensor, world_size: int) -> Tensor:
        ctx.world_size = world_size
        return gather_all(local, world_size)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        parts = list(gradient.contiguous().chunk(ctx.world_size))
        if dist.get_backend() == dist.Backend.NCCL:
            own = torch.empty_like(parts[0])
            dist.reduce_scatter(own, parts)
            return own, None
        # Not every backend can reduce-scatter.
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.chunk(ctx.world_size)[dist.get_rank()], None
