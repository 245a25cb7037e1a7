"""Anchors and candidates of one rank: their logits strip by strip, and the gradients collected from these."""

from collections.abc import Sequence

import torch
from torch import Tensor

from mcl_clip.loss.blocks import Block
from mcl_clip.loss.products import product

# Bytes of logits that may exist at a time; the arithmetic needs about twice as much.
BLOCK_MEMORY = 1 << 26


class Pairs:
    """Logits scale * rows @ columns.T, fp32 or fp64, of features rows [R, D] and columns [C, D].

    operand_dtype: see `products.operand_dtype`. ids: int64 captions of rows [R] and columns [C], or None;
    pairs of equal captions that are not positives get a logit of minus infinity. wanted: gradients of
    (rows, columns, scale).
    """

    def __init__(
        self,
        rows: Tensor,
        columns: Tensor,
        scale: Tensor,
        operand_dtype: torch.dtype,
        ids: tuple[Tensor, Tensor] | None,
        block_memory: int,
        wanted: Sequence[bool],
    ) -> None:
        self.dtype = torch.promote_types(operand_dtype, torch.float32)
        self.device = rows.device
        self.max_logits = block_memory // self.dtype.itemsize
        self._rows, self._scale, self._ids = rows.to(self.dtype), scale.to(self.dtype), ids
        self._scaled, self._columns = (self._rows * self._scale).to(operand_dtype), columns.to(operand_dtype)
        # The gradient of the scale follows from that of the rows.
        self._rows_grad = torch.zeros_like(self._rows) if wanted[0] or wanted[2] else None
        self._columns_grad = torch.zeros_like(columns, dtype=self.dtype) if wanted[1] else None

    @property
    def differentiable(self) -> bool:
        """Whether any gradient is wanted."""
        return self._rows_grad is not None or self._columns_grad is not None

    def zeros(self) -> Tensor:
        """A scalar zero of the logits' precision."""
        return torch.zeros((), dtype=self.dtype, device=self.device)

    def logits(self, block: Block, start: int, stop: int) -> Tensor:
        """[count, stop - start, columns] of a block's rows [start, stop)."""
        logits = product(block.of_rows(self._scaled)[:, start:stop], block.of_columns(self._columns).mT)
        if self._ids is not None:
            anchors, candidates = block.of_rows(self._ids[0])[:, start:stop], block.of_columns(self._ids[1])
            identical = anchors[:, :, None] == candidates[:, None, :]
            block.positives(identical, start).fill_(False)
            logits.masked_fill_(identical, -torch.inf)
        return logits

    def add_gradient(self, block: Block, start: int, stop: int, gradient: Tensor) -> None:
        """Take the gradient of the logits of a block's rows [start, stop), shaped as these."""
        if self._rows_grad is not None:
            block.of_rows(self._rows_grad)[:, start:stop] = product(gradient, block.of_columns(self._columns))
        if self._columns_grad is not None:
            anchors = block.of_rows(self._scaled)[:, start:stop]
            block.of_columns(self._columns_grad).add_(product(gradient.mT, anchors))

    def gradients(self, divisor: float) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Gradients of (rows, columns, scale) of the sum over all strips, divided; to be asked for once."""
        scale_grad = None
        if self._rows_grad is not None:
            scale_grad = (self._rows_grad * self._rows).sum() / divisor
            self._rows_grad.mul_(self._scale / divisor)
        if self._columns_grad is not None:
            self._columns_grad.div_(divisor)
        return self._rows_grad, self._columns_grad, scale_grad
