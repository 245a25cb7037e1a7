"""Pairs of anchors and candidates: their logits strip by strip, the gradients of these, and a loss made of both."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mcl_clip.loss.blocks import Block, blocks_of
from mcl_clip.plan.segments import SegmentLayout

# Bytes of logits that may exist at a time; the arithmetic needs about twice as much.
BLOCK_MEMORY = 1 << 26
# Elements of a batch of short segments on a CPU: what its cache holds. Accelerators want few launches instead.
CACHED = 1 << 22
_HALVES = (torch.float16, torch.bfloat16)
# Half-precision operands with an fp32 result: NVIDIA's CUDA only, since torch 2.8.
_FP32_RESULT = torch.version.cuda is not None and tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8)


def scalar_loss(kernel: Callable[["Pairs"], Tensor], *tensors: Tensor | None, divisor: int, **options: Any) -> Tensor:
    """kernel(pairs) / divisor, a scalar that is differentiable once; its gradients are computed beside it.

    tensors: rows [R, D], columns [C, D], scale, bias or None, as of `Pairs`; options: its others. The kernel sums
    losses over strips and hands each strip the gradient of its logits while they are there; it runs without autograd
    and outside autocast.
    """
    return _ScalarLoss.apply(kernel, divisor, options, torch.is_grad_enabled(), *tensors)


class _ScalarLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kernel, divisor: int, options: dict[str, Any], grad_enabled: bool, *tensors: Any):
        ctx.wanted = [grad_enabled and tensor is not None and tensor.requires_grad for tensor in tensors]
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in tensors]
        ctx.divisor = divisor
        pairs = Pairs(*tensors, **options, wanted=ctx.wanted)
        with torch.autocast(pairs.device.type, enabled=False), _no_tf32():
            value = kernel(pairs) / divisor
        ctx.save_for_backward(pairs.scale, *pairs.gradients)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor):
        scale, *gradients = ctx.saved_tensors
        factor = grad_output / ctx.divisor
        factors = factor * scale, factor * scale, factor, factor
        # Multiplied before they are rounded, so that a GradScaler's factor saves small half-precision gradients.
        gradients = [
            (gradient * each).to(dtype) if want else None
            for gradient, each, dtype, want in zip(gradients, factors, ctx.dtypes, ctx.wanted, strict=True)
        ]
        return None, None, None, None, *gradients


class Pairs:
    """Logits scale * rows @ columns.T + bias, fp32 or fp64, inside segments.

    rows: [R, D], the anchors at positions [first, first + R) of `layout`; columns: [C, D], of all its positions. ids:
    int64 captions of rows [R] and columns [C], or None; pairs of equal captions that are not positives get a logit of
    minus infinity. wanted: which of `gradients`, those of the sum over all strips with respect to (scale * rows,
    scale * columns, scale, bias). views: with 2, neighbours are a sample's views: an anchor's positive is the other
    one, itself is no candidate. Without columns these are the rows, and both have one gradient.
    """

    def __init__(
        self,
        rows: Tensor,
        columns: Tensor | None,
        scale: Tensor,
        bias: Tensor | None,
        *,
        layout: SegmentLayout,
        first: int,
        ids: tuple[Tensor, Tensor] | None,
        block_memory: int,
        wanted: Sequence[bool],
        views: int = 1,
    ) -> None:
        self._is_mirrored, self.views, columns = columns is None, views, rows if columns is None else columns
        self._operand = _operand_dtype(rows, columns)
        self.dtype, self.device = torch.promote_types(self._operand, torch.float32), rows.device
        self.max_logits = block_memory // self.dtype.itemsize
        cached = min(self.max_logits, CACHED) if self.device.type == "cpu" else self.max_logits
        self.blocks = blocks_of(layout, first, first + len(rows), rows.shape[1], cached)
        self.wanted, self._ids = wanted, ids
        self._rows, self._columns, self.scale = rows, columns, scale.to(self.dtype)
        self._bias = None if bias is None else bias.to(self.dtype)
        shapes: list[torch.Size | tuple] = [rows.shape, columns.shape, (), ()]
        self.gradients = [
            torch.zeros(shape, dtype=self.dtype, device=self.device) if want else None
            for shape, want in zip(shapes, wanted, strict=True)
        ]
        self.gradients[1] = self.gradients[0] if self._is_mirrored else self.gradients[1]

    def zero(self) -> Tensor:
        """A scalar of the logits' precision."""
        return torch.zeros((), dtype=self.dtype, device=self.device)

    def strips(self, block: Block) -> Iterator["Strip"]:
        """Runs of the block's anchors whose logits number at most `max_logits`."""
        count, (index, padding) = len(block.starts), self._index(block)
        columns = _Places(block.starts[0] + block.shift, count, block.columns, index)
        candidates = columns.of(self._columns).to(self._operand)
        for start, stop in block.strips(self.max_logits, self.views):
            rows = _Places(block.starts[0] + start, count, stop - start, index)
            anchors = rows.of(self._rows).to(self._operand)
            strip = Strip(rows, columns, anchors, candidates, block.diagonal + start, self.views, padding)
            if padding is not None:
                # Like segments of one sample: no loss, no gradient, seen by nobody.
                strip.hide(padding[:, :, None] | padding[:, None, :])
            if self._ids is not None:
                strip.hide(rows.of(self._ids[0])[:, :, None] == columns.of(self._ids[1])[:, None, :])
            yield strip

    def _index(self, block: Block) -> tuple[Tensor | None, Tensor | None]:
        """Of a padded block: places within its segments, from its first, and where padding is [count, length]."""
        if block.is_even:
            return None, None
        bounds = torch.tensor([block.starts, block.lengths])
        if self.device.type == "cuda":
            bounds = bounds.pin_memory()  # or the copy would wait
        starts, lengths = bounds.to(self.device, non_blocking=True).unsqueeze(2)
        place = torch.arange(block.columns, device=self.device)
        return (starts - block.starts[0] + torch.minimum(place, lengths - 1)).flatten(), place >= lengths

    def logits(self, strip: "Strip") -> Tensor:
        """[count, rows, columns] of a strip."""
        logits = _product(strip.anchors, strip.candidates.mT).mul_(self.scale)
        if self._bias is not None:
            logits += self._bias
        if self.views > 1:
            strip.own(logits).fill_(-torch.inf)
        return logits if strip.hidden is None else logits.masked_fill_(strip.hidden, -torch.inf)

    def add_gradient(self, strip: "Strip", gradient: Tensor) -> None:
        """Take the gradient of a strip's logits, shaped as these."""
        rows, columns, scale, bias = self.gradients
        if self._is_mirrored and gradient.shape[1] == gradient.shape[2]:  # one product for both sides
            gradient, columns = gradient + gradient.mT, None
        if rows is not None or scale is not None:
            by_row = _product(gradient, strip.candidates)
            if scale is not None:
                scale += (by_row * strip.anchors).sum()
            if rows is not None:
                strip.rows.add(rows, by_row)
        if columns is not None:
            strip.columns.add(columns, _product(gradient.mT, strip.anchors))
        if bias is not None:
            bias += gradient.sum()


@dataclass
class Strip:
    """Anchors [count, rows, D] of a block's segments and candidates [count, columns, D].

    Anchor i is itself candidate `diagonal` + i, which is its positive too unless there are two `views`; padding:
    [count, rows], where there is no anchor.
    """

    rows: "_Places"
    columns: "_Places"
    anchors: Tensor
    candidates: Tensor
    diagonal: int
    views: int
    padding: Tensor | None
    hidden: Tensor | None = None

    def own(self, logits: Tensor) -> Tensor:
        """Of logits [count, rows, columns] those between an anchor and itself, [count, rows], a view."""
        return logits.narrow(2, self.diagonal, logits.shape[1]).diagonal(dim1=1, dim2=2)

    def positives(self, logits: Tensor) -> Tensor:
        """The positives of logits [count, rows, columns]: a view [count, rows], of two views [count, rows / 2, 2]."""
        if self.views == 1:
            return self.own(logits)
        batch, row, column = logits.stride()
        # (2k, 2k + 1) and (2k + 1, 2k) of the square at `diagonal`, for every k.
        place = logits.storage_offset() + (self.diagonal + 1) * column
        shape = len(logits), logits.shape[1] // 2, 2
        return logits.as_strided(shape, (batch, 2 * (row + column), row - column), place)

    def hide(self, pairs: Tensor) -> None:
        """Leave pairs [count, rows, columns] out, but for positives."""
        self.positives(pairs).fill_(False)
        self.hidden = pairs if self.hidden is None else self.hidden | pairs


@dataclass(frozen=True)
class _Places:
    """Feature rows [count, length] of a block: all from `start` on, or those at `start + index`."""

    start: int
    count: int
    length: int
    index: Tensor | None

    def of(self, tensor: Tensor) -> Tensor:
        """[count, length, ...] of a tensor [all rows, ...]."""
        if self.index is None:
            flat = tensor.narrow(0, self.start, self.count * self.length)
        else:
            flat = tensor.index_select(0, self.index + self.start)
        return flat.unflatten(0, (self.count, self.length))

    def add(self, gradient: Tensor, values: Tensor) -> None:
        """Add values [count, length, D] to a gradient [all rows, D]."""
        if self.index is None:
            self.of(gradient).add_(values)
        else:
            gradient.index_add_(0, self.index + self.start, values.flatten(0, 1))


@contextlib.contextmanager
def _no_tf32() -> Iterator[None]:
    """Without the TF32 that training may allow: it would be off by 0.05 at logits of 100."""
    flags = torch.backends.cuda.matmul
    # torch 2.9 names the flag anew and refuses mixtures.
    name, exact = ("fp32_precision", "ieee") if hasattr(flags, "fp32_precision") else ("allow_tf32", False)
    inherited = getattr(flags, name)
    setattr(flags, name, exact)
    try:
        yield
    finally:
        setattr(flags, name, inherited)


def _operand_dtype(rows: Tensor, columns: Tensor) -> torch.dtype:
    """The precision in which features are multiplied; to be read inside the caller's autocast.

    On CUDA, half-precision features and features under autocast stay on the half-precision units, which accumulate in
    fp32. Elsewhere everything below fp64 is multiplied in fp32.
    """
    dtype = torch.promote_types(rows.dtype, columns.dtype)
    if rows.is_cuda and _FP32_RESULT:
        halved = dtype == torch.float32 and torch.is_autocast_enabled("cuda")
        return torch.get_autocast_dtype("cuda") if halved else dtype
    return torch.promote_types(dtype, torch.float32)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """[k, m, d] @ [k, d, n] in fp32 or fp64."""
    if right.dtype in _HALVES:
        return torch.bmm(left.to(right.dtype), right, out_dtype=torch.float32)
    return torch.bmm(left, right)
