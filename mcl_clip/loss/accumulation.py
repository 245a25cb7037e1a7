"""Gradient accumulation with cached features: the gradient of the global batch, a micro-batch of memory at a time."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mcl_clip.plan.segments import SegmentLayout

_FEATURES = ("image_features", "text_features")


def accumulated_backward(
    model: nn.Module,
    loss: nn.Module,
    inputs: Sequence[tuple[Any, ...]],
    *,
    segments: SegmentLayout | None = None,
    text_ids: Tensor | None = None,
    autocast: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    scaler: torch.amp.GradScaler | None = None,
) -> Tensor:
    """Add the gradient of the loss over all micro-batches to the parameters; returns the detached loss.

    model(*inputs[a]) gives a dict with image_features and text_features [b, D], logit_scale and, if any, logit_bias.
    segments: layout of the global batch; this rank's part is the micro-batches one after another. The first pass caches
    features, the loss gives their gradients, the second pass replays each micro-batch with the same random state
    (dropout) and sends them back (GradCache, arXiv 2101.06983). Scale and bias get their gradient once, unlike
    open_clip's loop, which multiplies it by the number of micro-batches. Under DDP only the last pass synchronises.
    """
    cached: dict[str, list[Tensor]] = {name: [] for name in _FEATURES}
    states = []
    scalars: dict[str, Tensor] = {}
    with torch.no_grad(), autocast():
        for micro_batch in inputs:
            states.append(_random_state(micro_batch))
            output = model(*micro_batch)
            for name in _FEATURES:
                cached[name].append(output[name])
            scalars = {name: value for name, value in output.items() if name not in _FEATURES}
    leaves = {name: torch.cat(parts).requires_grad_() for name, parts in cached.items()}
    leaves |= {name: value.detach().clone().requires_grad_() for name, value in scalars.items() if value is not None}
    with autocast():
        value = loss(**leaves, segments=segments, text_ids=text_ids)
    (value if scaler is None else scaler.scale(value)).backward()
    start = 0
    for index, (micro_batch, state) in enumerate(zip(inputs, states, strict=True)):
        last = index == len(inputs) - 1
        _restore(state)
        with contextlib.nullcontext() if last else _no_sync(model):
            with autocast():
                output = model(*micro_batch)
            stop = start + len(output[_FEATURES[0]])
            targets = [(output[name], leaves[name].grad[start:stop]) for name in _FEATURES]
            if last:
                targets += [(output[name], leaves[name].grad) for name in leaves if name not in _FEATURES]
            targets = [(tensor, grad) for tensor, grad in targets if tensor.requires_grad and grad is not None]
            torch.autograd.backward([tensor for tensor, _ in targets], [grad for _, grad in targets])
        start = stop
    return value.detach()


def _no_sync(model: nn.Module) -> contextlib.AbstractContextManager:
    no_sync = getattr(model, "no_sync", None)
    return no_sync() if no_sync is not None else contextlib.nullcontext()


def _random_state(micro_batch: tuple[Any, ...]) -> tuple[Tensor, int | None, Tensor | None]:
    device = next((each.device for each in micro_batch if isinstance(each, Tensor) and each.is_cuda), None)
    if device is None:
        return torch.get_rng_state(), None, None
    return torch.get_rng_state(), device.index, torch.cuda.get_rng_state(device)


def _restore(state: tuple[Tensor, int | None, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[2] is not None:
        torch.cuda.set_rng_state(state[2], state[1])
