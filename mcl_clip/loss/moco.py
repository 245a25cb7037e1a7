"""MoCo's loss: an anchor's negatives are older keys of its own pseudo-label, kept in a queue of that label."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from mcl_clip.loss.gather import gather_all
from mcl_clip.loss.segment_loss import checked_layout
from mcl_clip.plan.segments import SegmentLayout


class MCLMoCoLoss(nn.Module):
    """InfoNCE of queries against their keys and the queue of their pseudo-label (MoCo, arXiv 1911.05722).

    label_sizes: samples of each effective pseudo-label, by its number in the layouts. The `queue` keys of all labels
    together are divided among them in proportion, so that a key leaves each at one age: with one label this is MoCo's
    queue. Queues start empty; memory: about `queue` x dim in fp32, on every rank the same. In training mode a call
    takes the batch's keys of all ranks in, after they were used. rank, world_size: as of `SegmentLoss`; averaged over
    ranks, value and gradient are those of one process.
    """

    def __init__(
        self,
        dim: int,
        label_sizes: Sequence[int],
        *,
        queue: int = 65536,
        temperature: float = 0.2,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        self.temperature, self.rank, self.world_size = temperature, rank, world_size
        total = max(sum(int(size) for size in label_sizes), 1)
        self.capacities = [max(1, queue * int(size) // total) if size else 0 for size in label_sizes]
        self._starts = [0, *accumulate(self.capacities)]
        self.taken = [0] * len(self.capacities)
        self.register_buffer("keys", torch.zeros(self._starts[-1], dim))
        self.keys: Tensor

    # As of `SegmentLoss`.
    @torch.compiler.disable
    def forward(self, queries: Tensor, keys: Tensor, *, segments: SegmentLayout | None = None) -> Tensor:
        """The loss, a scalar in fp32 or fp64.

        queries, keys: [G/W, D], unit vectors of this rank's images, in position order; no gradient goes into the keys.
        segments: layout of the whole global batch with its labels; None is one segment of label 0. Raises `UserError`
        when features and layout do not fit.
        """
        layout = checked_layout(segments, self.world_size, queries, keys, "query and key")
        labels = layout.labels or (0,)
        first, count = self.rank * len(queries), len(queries)
        with torch.autocast(queries.device.type, enabled=False):
            dtype = torch.promote_types(queries.dtype, torch.float32)
            queries, keys = queries.to(dtype), keys.detach().to(dtype)
            total = queries.new_zeros(())
            for (low, high), label in zip(layout.bounds(), labels, strict=True):
                own = slice(max(low - first, 0), min(high - first, count))
                if own.start < own.stop:
                    total = total + self._segment(queries[own], keys[own], self.negatives(label).to(dtype))
        if self.training:
            self._take(gather_all(keys, self.world_size), layout, labels)
        return total / count

    def negatives(self, label: int) -> Tensor:
        """The keys [n, D] in the queue of a label, in no order."""
        start = self._starts[label]
        return self.keys[start : start + min(self.taken[label], self.capacities[label])]

    def _segment(self, queries: Tensor, keys: Tensor, negatives: Tensor) -> Tensor:
        positives = (queries * keys).sum(1, keepdim=True)
        # The queue changes in place before the backward pass reads it.
        logits = torch.cat((positives, queries @ negatives.clone().T), 1) / self.temperature
        return (logits.logsumexp(1) - logits[:, 0]).sum()

    @torch.no_grad()
    def _take(self, keys: Tensor, layout: SegmentLayout, labels: Sequence[int]) -> None:
        """Let the keys of a global batch push out the oldest of their labels."""
        for (low, high), label in zip(layout.bounds(), labels, strict=True):
            capacity, taken = self.capacities[label], self.taken[label]
            newest = keys[max(low, high - capacity) : high]
            places = (torch.arange(len(newest)) + taken) % capacity + self._starts[label]
            self.keys[places.to(self.keys.device)] = newest.to(self.keys.dtype)
            self.taken[label] = taken + len(newest)

    def get_extra_state(self) -> Any:
        """How many keys each queue has taken, with `state_dict`."""
        return {"taken": list(self.taken)}

    def set_extra_state(self, state: Any) -> None:
        """As `get_extra_state` gave it."""
        self.taken[:] = state["taken"]
