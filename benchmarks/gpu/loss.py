"""Forward and backward of the loss in bf16 at 32,768, beside ClipLoss and the matrix products that it needs.

global: the whole batch, as one process has it. local: what one rank of eight does with `--local-loss`, when the
features of all are there.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from open_clip.loss import ClipLoss
from torch import Tensor
from torch.nn import functional as F

from benchmarks.loss import features
from benchmarks.steps import by_turns, forward_backward
from mcl_clip.loss import MCLClipLoss
from mcl_clip.plan.segments import SegmentLayout

RANKS = 8


class OneOf(MCLClipLoss):
    """One of `RANKS` ranks, the first, that has the features of the others at hand."""

    def __init__(self, others: list[Tensor]):
        super().__init__(local_loss=True, rank=0, world_size=RANKS)
        self.others = others

    def _gather(self, features: Tensor) -> Tensor:
        own, *rest = self.others
        self.others = [*rest, own]  # asked for images, then for texts
        return torch.cat([features.detach(), own])


def main(arguments: list[str] | None = None) -> int:
    """Print ms and ratios by kind and number of segments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--batch", type=int, default=32768)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--segments", type=int, nargs="+", default=[1, 8, 512])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args(arguments)
    options.dtype = "bfloat16"
    result: dict[str, Any] = {}
    for kind, measure in (("global", whole), ("local", local)):
        for segments in options.segments:
            count = min(segments, options.batch // RANKS)
            result[f"{kind}, {count} segments"] = measure(count, options)
    print(json.dumps({**result, "batch": options.batch, "dim": options.dim}))
    return 0


def whole(segments: int, options: argparse.Namespace) -> dict[str, Any]:
    """All anchors."""
    inputs, size = features(options.batch, options), options.batch // segments
    layout = SegmentLayout((size,) * segments)
    return _measure(
        partial(forward_backward, partial(MCLClipLoss(), segments=layout), inputs),
        partial(forward_backward, ClipLoss(), inputs),
        partial(products, segments, size, size, options),
        6 * options.batch * size * options.dim,
        options,
    )


def local(segments: int, options: argparse.Namespace) -> dict[str, Any]:
    """The anchors of one rank, images and texts."""
    everything, own = features(options.batch, options), options.batch // RANKS
    inputs = [*(each.detach()[:own].clone().requires_grad_() for each in everything[:2]), everything[2]]
    others = [each.detach()[own:] for each in everything[:2]]
    size = options.batch // segments
    rows = min(own, size)
    loss = partial(OneOf(others), segments=SegmentLayout((size,) * segments))
    return _measure(
        partial(forward_backward, loss, inputs),
        partial(forward_backward, partial(_clip_local, others), inputs),
        lambda: [each for _ in ("images", "texts") for each in products(own // rows, rows, size, options)],
        2 * 6 * own * size * options.dim,
        options,
    )


def products(blocks: int, rows: int, columns: int, options: argparse.Namespace) -> list[Tensor]:
    """The logits of `blocks` blocks, and both gradients, without a softmax between."""
    dtype, device = getattr(torch, options.dtype), options.device
    a, b = (torch.ones(blocks, n, options.dim, dtype=dtype, device=device) for n in (rows, columns))
    logits = a @ b.mT
    return [logits @ b, logits.mT @ a]


def _clip_local(others: list[Tensor], image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """open_clip's local loss."""
    places = torch.arange(len(image), device=image.device)
    images, texts = (torch.cat([own.detach(), rest]) for own, rest in zip((image, text), others, strict=True))
    by_image, by_text = scale * image @ texts.T, scale * text @ images.T
    return (F.cross_entropy(by_image, places) + F.cross_entropy(by_text, places)) / 2


def _measure(ours: Callable, theirs: Callable, limit: Callable, flops: float, options: argparse.Namespace) -> dict:
    ms, peaks, values = by_turns({"ours": ours, "clip_loss": theirs, "matmul": limit}, options)
    assert all(torch.isfinite(value).all() for value in values["ours"])
    return {
        "ms": ms["ours"],
        "clip_loss_ms": ms["clip_loss"],
        "matmul_ms": ms["matmul"],
        "times_as_fast_as_clip_loss": round(ms["clip_loss"] / ms["ours"], 2),
        "matmul_share": round(ms["matmul"] / ms["ours"], 3),
        "tflops_per_s": round(flops / ms["ours"] / 1e9, 3),
        "peak_mib": round(peaks["ours"] / 2**20, 1),
    }


if __name__ == "__main__":
    raise SystemExit(main())
