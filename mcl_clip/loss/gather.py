"""Features and captions of all ranks, in position order."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

# torch 2.14 names them anew and warns of the old names.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


def gather_all(local: Tensor, world_size: int) -> Tensor:
    """[n, ...] of every rank, one after another: [n * world_size, ...]; no gradient."""
    local = local.detach()
    if world_size == 1:
        return local
    everything = local.new_empty(len(local) * world_size, *local.shape[1:])
    _all_gather(everything, local.contiguous())
    return everything


def gather_with_own_gradient(local: Tensor, rank: int, world_size: int) -> Tensor:
    """As `gather_all`; gradients reach this rank's own part only (open_clip without gather_with_grad)."""
    if world_size == 1:
        return local
    parts = list(gather_all(local, world_size).chunk(world_size))
    parts[rank] = local
    return torch.cat(parts)


def gather_with_gradient(local: Tensor, world_size: int) -> Tensor:
    """As `gather_all`; the gradient of each part is summed over the ranks and returned to its owner."""
    return local if world_size == 1 else _Gather.apply(local, world_size)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, local: Tensor, world_size: int) -> Tensor:
        ctx.world_size = world_size
        return gather_all(local, world_size)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        gradient = gradient.contiguous()
        if scatters_sums(gradient.device):
            own = gradient.new_empty(len(gradient) // ctx.world_size, *gradient.shape[1:])
            _reduce_scatter(own, gradient)
            return own, None
        total = gradient.clone()
        dist.all_reduce(total)
        return total.chunk(ctx.world_size)[dist.get_rank()], None


def scatters_sums(device: torch.device) -> bool:
    """Whether ranks can each receive their part of a sum: gloo learned it late, MPI did not; they reduce all of it."""
    backends = dict(each.split(":") for each in dist.get_backend_config().split(","))
    return backends[device.type] not in ("gloo", "mpi")
