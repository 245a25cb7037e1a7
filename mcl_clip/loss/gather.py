"""Features and captions of all ranks, in position order."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def gather_all(local: Tensor, world_size: int) -> Tensor:
    """[n, ...] of every rank, one after another: [n * world_size, ...]; no gradient."""
    local = local.detach().contiguous()
    parts = [torch.empty_like(local) for _ in range(world_size)]
    dist.all_gather(parts, local)
    return torch.cat(parts)


def gather_with_own_gradient(local: Tensor, rank: int, world_size: int) -> Tensor:
    """As `gather_all`; gradients reach this rank's own part only (open_clip without gather_with_grad)."""
    everything = gather_all(local, world_size)
    count = len(local)
    return torch.cat((everything[: rank * count], local, everything[(rank + 1) * count :]))


def gather_with_gradient(local: Tensor, world_size: int) -> Tensor:
    """As `gather_all`; the gradient of each part is summed over the ranks and returned to its owner."""
    return _Gather.apply(local, world_size)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, local: Tensor, world_size: int) -> Tensor:
        ctx.count = len(local)
        return gather_all(local, world_size)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        gradient = gradient.contiguous()
        if dist.get_backend() == dist.Backend.NCCL:
            own = torch.empty_like(gradient[: ctx.count])
            dist.reduce_scatter_tensor(own, gradient)
            return own, None
        # Not every backend can reduce-scatter.
        total = gradient.clone()
        dist.all_reduce(total)
        return total.narrow(0, dist.get_rank() * ctx.count, ctx.count), None
