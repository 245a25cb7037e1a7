"""BatchNorm over the batches of all ranks, on processors too, where torch has none."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from mcl_clip.errors import UserError

_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SyncedBatchNorm(_BatchNorm):
    """In training the mean and variance are those of all ranks' batches, which are of one size; else `BatchNorm`."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return F.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        kept = [dim for dim in range(input.ndim) if dim != 1]
        shape = [1, -1] + [1] * (input.ndim - 2)
        count = input.numel() // input.shape[1] * dist.get_world_size()
        mean = _Sum.apply(input.sum(kept)) / count
        centred = input - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(kept)) / count
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)  # type: ignore[arg-type]
            self.running_mean.lerp_(mean.detach().to(self.running_mean.dtype), momentum)
            unbiased = variance.detach() * count / max(count - 1, 1)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        output = centred * (variance + self.eps).rsqrt().view(shape)
        return output if self.weight is None else output * self.weight.view(shape) + self.bias.view(shape)


def synced(module: nn.Module, device: torch.device) -> nn.Module:
    """`module` with every BatchNorm synchronised over the ranks; parameters, names and statistics stay."""
    if device.type != "cpu":
        return convert_sync_batchnorm(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, SyncedBatchNorm):
                setattr(parent, name, _converted(child))
    return module


def _converted(norm: _BatchNorm) -> SyncedBatchNorm:
    if type(norm) not in _PLAIN:
        raise UserError(f"--use-bn-sync: on a CPU {type(norm).__name__} cannot be synchronised; leave it out")
    twin = SyncedBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    twin._parameters, twin._buffers, twin.training = norm._parameters, norm._buffers, norm.training
    return twin


class _Sum(torch.autograd.Function):
    """Over the ranks, of values and of gradients."""

    @staticmethod
    def forward(ctx, local: Tensor) -> Tensor:
        total = local.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total
