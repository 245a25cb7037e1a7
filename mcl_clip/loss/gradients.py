"""A scalar loss that computes its gradients beside its value, while the logits are still there."""

from collections.abc import Callable, Sequence

import torch
from torch.autograd.function import once_differentiable

Gradients = Sequence[torch.Tensor | None]
# (tensors, which of them need a gradient) -> (value, gradients in the tensors' order)
Kernel = Callable[[Sequence[torch.Tensor], Sequence[bool]], tuple[torch.Tensor, Gradients]]


def scalar_loss(kernel: Kernel, *tensors: torch.Tensor) -> torch.Tensor:
    """The value of `kernel`, differentiable once with respect to `tensors`.

    The kernel runs without autograd and outside autocast; a gradient it was not asked for may be None.
    """
    return _ScalarLoss.apply(kernel, torch.is_grad_enabled(), *tensors)


class _ScalarLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kernel: Kernel, grad_enabled: bool, *tensors: torch.Tensor) -> torch.Tensor:
        wanted = [grad_enabled and tensor.requires_grad for tensor in tensors]
        with torch.autocast(tensors[0].device.type, enabled=False):
            value, gradients = kernel(tensors, wanted)
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        ctx.wanted = wanted
        ctx.save_for_backward(*(gradient if want else None for gradient, want in zip(gradients, wanted, strict=True)))
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: torch.Tensor):
        # Scaled before it is rounded, so that a GradScaler's factor saves small half-precision gradients.
        gradients = [
            (gradient * grad_output).to(dtype) if want else None
            for gradient, dtype, want in zip(ctx.saved_tensors, ctx.dtypes, ctx.wanted, strict=True)
        ]
        return None, None, *gradients
