"""Gradient accumulation with cached features: a global batch's gradient, in the memory of a micro-batch."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import get_device_states, set_device_states

from mcl_clip.plan.segments import SegmentLayout

SCALARS = ("logit_scale", "logit_bias")
"""What a model may give besides features, of which each sample has its own."""


def accumulated_backward(
    model: nn.Module,
    loss: Callable[..., Tensor],
    inputs: Sequence[tuple[Any, ...]],
    *,
    segments: SegmentLayout | None = None,
    text_ids: Tensor | None = None,
    autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    scaler: torch.amp.GradScaler | None = None,
) -> Tensor:
    """Add the gradient of the loss over all micro-batches to the parameters; returns the detached loss.

    model(*inputs[a]) gives a dict with features [b, D] by the loss's names and, if any, logit_scale and logit_bias.
    segments, text_ids: of the loss; this rank's samples are the micro-batches one after another. The first pass caches
    features, the loss gives their gradients, the second pass replays each micro-batch with the same random state
    (dropout) and sends them back (GradCache, arXiv 2101.06983); BatchNorm's running statistics see the second alone.
    Scale and bias get their gradient once; open_clip's loop multiplies the scale's by the number of
    micro-batches. Under DDP only the last micro-batch synchronises, with a static graph all.
    """
    cached: list[dict[str, Tensor]] = []
    states = []
    with torch.no_grad(), autocast(), kept_statistics(model):
        for micro_batch in inputs:
            states.append(_random_state(micro_batch))
            cached.append(model(*micro_batch))
    # Or, within a caller's own autocast, older torch's second pass would use weights cast without autograd.
    torch.clear_autocast_cache()
    features = [name for name in cached[-1] if name not in SCALARS]
    leaves = {name: torch.cat([output[name] for output in cached]) for name in features}
    leaves |= {name: cached[-1][name].detach().clone() for name in SCALARS if cached[-1].get(name) is not None}
    options = {} if text_ids is None else {"text_ids": text_ids}
    for leaf in leaves.values():
        leaf.requires_grad_()
    with autocast():
        value = loss(**leaves, segments=segments, **options)
    _scaled(value, scaler).backward()
    start = 0
    for index, (micro_batch, state) in enumerate(zip(inputs, states, strict=True)):
        last = index == len(inputs) - 1
        _restore(*state)
        with contextlib.nullcontext() if last else _no_sync(model):
            with autocast():
                output = model(*micro_batch)
            stop = start + len(cached[index][features[0]])
            gradients = {name: _gradient(leaves[name])[start:stop] for name in features}
            # Zero rather than absent before the last: DDP's static graph wants the same graph every time.
            gradients |= {name: _gradient(leaf) * last for name, leaf in leaves.items() if name in SCALARS}
            names = [name for name in gradients if output[name].requires_grad]
            if names:
                torch.autograd.backward([output[name] for name in names], [gradients[name] for name in names])
        start = stop
    return value.detach()


@contextlib.contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm normalises as it does, but its running statistics stay as they are."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, momentum, count in before:
            norm.momentum, norm.num_batches_tracked = momentum, count


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _scaled(value: Tensor, scaler: torch.amp.GradScaler | None) -> Tensor:
    return value if scaler is None else scaler.scale(value)


def _no_sync(model: nn.Module) -> contextlib.AbstractContextManager:
    # DDP's static graph fails unless its first backward pass synchronises; doing so every time gives the same sum.
    no_sync: Any = getattr(model, "no_sync", None)
    if no_sync is None or getattr(model, "static_graph", False):
        return contextlib.nullcontext()
    return no_sync()


def _random_state(micro_batch: tuple[Any, ...]) -> tuple[Tensor, list[int], list[Tensor]]:
    return torch.get_rng_state(), *get_device_states(*micro_batch)


def _restore(state: Tensor, devices: list[int], device_states: list[Tensor]) -> None:
    torch.set_rng_state(state)
    if devices:
        set_device_states(devices, device_states)
