"""The loss of a global batch in which some positions hold no sample that counts."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mcl_clip.loss.accumulation import SCALARS
from mcl_clip.loss.distil import TEACHER_SCALE
from mcl_clip.loss.gather import gather_all, gather_with_gradient
from mcl_clip.plan.segments import SegmentLayout


def loss_without(
    missing: Sequence[int],
    loss: Any,
    *,
    segments: SegmentLayout,
    text_ids: Tensor | None = None,
    **output: Any,
) -> Tensor:
    """`loss` over the positions of a global batch that are not `missing`, on every rank all of it.

    loss: of this package, in any mode; segments, text_ids and `output`, a model's features and scalars, as it takes
    them. Features of all ranks are gathered with their gradient, so that the mean over ranks has value and gradient of
    one process. It costs every rank the whole global batch, for the rare step.
    """
    alone, rank_count = _in_one_process(loss), loss.world_size
    present = torch.ones(segments.size, dtype=torch.bool)
    present[list(missing)] = False
    scalars = {name: output.pop(name) for name in (*SCALARS, TEACHER_SCALE) if name in output}
    kept = present.nonzero()[:, 0]
    features = {name: gather_with_gradient(each, rank_count)[kept.to(each.device)] for name, each in output.items()}
    if text_ids is not None:
        scalars["text_ids"] = gather_all(text_ids, rank_count)[kept.to(text_ids.device)]
    return alone(**features, **scalars, segments=segments.without(missing))


def _in_one_process(loss: nn.Module) -> Any:
    """A shallow copy of a loss, and of those it is made of, that sees the global batch on one rank."""
    alone: Any = copy.copy(loss)
    alone.rank, alone.world_size = 0, 1
    alone._modules = {name: _in_one_process(inner) for name, inner in loss.named_children()}
    return alone
