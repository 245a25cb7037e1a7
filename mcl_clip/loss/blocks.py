"""Sums of pair losses over one block of logits, computed in chunks of rows and recomputed in the backward pass.

Only a chunk of the block exists at any time, whatever its size. Logits and log-sum-exp are float32 under any
autocast (float64 for float64 features).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

BLOCK_MEMORY = 1 << 26


class SoftmaxBlock(Function):
    """Sum over rows i of lse_j(z_ij) - z_i,offset+i, for z = scale * queries @ keys.T; with `columns`, also over columns.

    queries [n, D], keys [m, D], scale []. Row i's positive is column offset + i. `columns` needs n = m. `query_ids` [n]
    and `key_ids` [m], or None: pairs of equal ids, other than the positive, are left out.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        scale: Tensor,
        offset: int,
        columns: bool,
        query_ids: Tensor | None,
        key_ids: Tensor | None,
        block_memory: int,
    ) -> Tensor:
        """The sum, a scalar."""
        dtype = _compute_dtype(queries)
        q, k, t = queries.detach().to(dtype), keys.detach().to(dtype), scale.detach().to(dtype)
        total = q.new_zeros(())
        row_lse = q.new_empty(len(q))
        column_lse = q.new_full((len(k),), -torch.inf) if columns else None
        chunks = _chunks(len(q), len(k), block_memory)
        for start, stop in chunks:
            z = _logits(q, k, t, start, stop, offset, query_ids, key_ids)
            row_lse[start:stop] = torch.logsumexp(z, 1)
            positives = z.diagonal(offset + start).sum()
            total += row_lse[start:stop].sum() - positives
            if column_lse is not None:
                column_lse = torch.logaddexp(column_lse, torch.logsumexp(z, 0))
                total -= positives
        if column_lse is not None:
            total += column_lse.sum()
        ctx.save_for_backward(queries, keys, scale, row_lse, column_lse, query_ids, key_ids)
        ctx.offset, ctx.chunks = offset, chunks
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and scale."""
        queries, keys, scale, row_lse, column_lse, query_ids, key_ids = ctx.saved_tensors
        q, k, t = queries.to(row_lse), keys.to(row_lse), scale.to(row_lse)

        def grad_of_logits(start: int, stop: int) -> Tensor:
            z = _logits(q, k, t, start, stop, ctx.offset, query_ids, key_ids)
            if column_lse is None:
                g = z.sub_(row_lse[start:stop, None]).exp_()
                positives = 1
            else:
                g = (z - row_lse[start:stop, None]).exp_()
                g += z.sub_(column_lse).exp_()
                positives = 2
            g.diagonal(ctx.offset + start).sub_(positives)
            return g

        grad_q, grad_k, grad_t, _ = _contract(q, k, t, grad, ctx.chunks, grad_of_logits)
        return grad_q.to(queries.dtype), grad_k.to(keys.dtype), grad_t.to(scale.dtype), None, None, None, None, None


class SigmoidBlock(Function):
    """Sum over all pairs of softplus(z_ij), minus the positives z_i,offset+i, for z = scale * queries @ keys.T + bias.

    That is -log sigmoid(z) for positives and -log sigmoid(-z) for negatives (SigLIP, arXiv 2303.15343). Shapes as of
    `SoftmaxBlock`; scale and bias are scalars.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        scale: Tensor,
        bias: Tensor,
        offset: int,
        query_ids: Tensor | None,
        key_ids: Tensor | None,
        block_memory: int,
    ) -> Tensor:
        """The sum, a scalar."""
        dtype = _compute_dtype(queries)
        q, k = queries.detach().to(dtype), keys.detach().to(dtype)
        t, b = scale.detach().to(dtype), bias.detach().to(dtype)
        total = q.new_zeros(())
        chunks = _chunks(len(q), len(k), block_memory)
        for start, stop in chunks:
            z = _logits(q, k, t, start, stop, offset, query_ids, key_ids).add_(b)
            total += torch.nn.functional.softplus(z).sum() - z.diagonal(offset + start).sum()
        ctx.save_for_backward(queries, keys, scale, bias, query_ids, key_ids)
        ctx.offset, ctx.chunks, ctx.dtype = offset, chunks, dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys, scale and bias."""
        queries, keys, scale, bias, query_ids, key_ids = ctx.saved_tensors
        q, k, t, b = (each.to(ctx.dtype) for each in (queries, keys, scale, bias))

        def grad_of_logits(start: int, stop: int) -> Tensor:
            z = _logits(q, k, t, start, stop, ctx.offset, query_ids, key_ids).add_(b)
            g = z.sigmoid_()
            g.diagonal(ctx.offset + start).sub_(1)
            return g

        grad_q, grad_k, grad_t, grad_b = _contract(q, k, t, grad, ctx.chunks, grad_of_logits)
        return (
            grad_q.to(queries.dtype),
            grad_k.to(keys.dtype),
            grad_t.to(scale.dtype),
            grad_b.to(bias.dtype),
            None,
            None,
            None,
            None,
        )


def _compute_dtype(features: Tensor) -> torch.dtype:
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def _chunks(rows: int, columns: int, block_memory: int) -> list[tuple[int, int]]:
    size = max(1, block_memory // (4 * max(columns, 1)))
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def _logits(q, k, t, start, stop, offset, query_ids, key_ids) -> Tensor:
    with torch.autocast(q.device.type, enabled=False):
        z = (q[start:stop] @ k.T).mul_(t)
    if query_ids is not None:
        same = query_ids[start:stop, None] == key_ids
        same.diagonal(offset + start).fill_(False)
        z.masked_fill_(same, -torch.inf)
    return z


def _contract(q, k, t, grad, chunks, grad_of_logits) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of queries, keys, scale and an added constant, from those of the logits, chunk by chunk."""
    grad_q, grad_k = torch.empty_like(q), torch.zeros_like(k)
    grad_b = q.new_zeros(())
    with torch.autocast(q.device.type, enabled=False):
        for start, stop in chunks:
            g = grad_of_logits(start, stop)
            torch.mm(g, k, out=grad_q[start:stop])
            grad_k.addmm_(g.T, q[start:stop])
            grad_b += g.sum()
        grad_t = (grad_q * q).sum()
    return grad_q.mul_(t * grad), grad_k.mul_(t * grad), grad_t * grad, grad_b * grad
