"""At which rank does a query find the first entry of its own? Exact, in tiles of queries."""

from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 4_000_000  # similarities at once: 16 MB


@dataclass(frozen=True)
class Own:
    """Which gallery entries are a query's own: pairs (query, entry), int64 [P] each, by rising query, none left out."""

    query: Tensor
    entry: Tensor


def ranks(
    queries: Tensor, gallery: Tensor, own: Own, *, rows: Tensor | None = None, copies: Tensor | None = None
) -> Tensor:
    """Rank, from 0, of the best own entry of every query: int64 [Q].

    It is the number of other entries that are at least as similar, so a tie counts against. Query i is row `rows[i]` of
    `queries` [*, D] (row i without), similarity the dot product with `gallery` [N, D]; entry j counts `copies[j]` times
    (once without). A tile of TILE similarities is held at once.
    """
    count = len(queries) if rows is None else len(rows)
    step = max(1, TILE // len(gallery))
    found = torch.empty(count, dtype=torch.int64)
    weights = torch.ones(len(gallery)) if copies is None else copies.float()
    asked = own.query.contiguous()
    for start in range(0, count, step):
        end = min(start + step, count)
        tile = (queries[start:end] if rows is None else queries[rows[start:end]]) @ gallery.T
        first, last = torch.searchsorted(asked, torch.tensor([start, end])).tolist()
        query, entry = asked[first:last] - start, own.entry[first:last]
        similarity = tile[query, entry]
        best = torch.full((end - start,), -torch.inf).scatter_reduce(0, query, similarity, "amax")
        above = (tile >= best[:, None]).float() @ weights
        above.index_add_(0, query, -weights[entry] * (similarity >= best[query]))
        found[start:end] = above.round().long()
    return found


def recalls(found: Tensor, ks: tuple[int, ...]) -> Tensor:
    """bool [Q, K]: whether the best own entry is among the first k."""
    return found[:, None] < torch.tensor(ks)
