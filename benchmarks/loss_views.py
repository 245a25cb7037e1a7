"""Forward and backward of MCLNTXentLoss and lightly's NTXentLoss, by turns: `benchmarks.loss --objective simclr`."""

import argparse
from functools import partial

import torch
from lightly.loss import NTXentLoss
from torch import Tensor
from torch.nn import functional as F

from benchmarks.steps import by_turns, forward_backward
from mcl_clip.loss import MCLNTXentLoss
from mcl_clip.plan.segments import SegmentLayout

TEMPERATURE = 0.5


def measure_views(options: argparse.Namespace) -> dict:
    """8 segments of --batch images at the top level; these and one segment, of it and a quarter, in `grid`."""
    small = max(options.batch // 4, 8)
    rows = [_point(batch, segments, options) for batch in (options.batch, small) for segments in (8, 1)]
    return {**rows[0], "grid": rows}


def _point(batch: int, segments: int, options: argparse.Namespace) -> dict:
    views = _views(batch, options)
    layout = SegmentLayout((batch // segments,) * segments)
    ours, theirs = MCLNTXentLoss(temperature=TEMPERATURE), NTXentLoss(temperature=TEMPERATURE)
    ms, peaks, values = by_turns(
        {
            "ours": partial(forward_backward, partial(ours, segments=layout), views),
            "lightly": partial(forward_backward, theirs, views),
        },
        options,
    )
    row = {
        "batch": batch,
        "segments": segments,
        "dim": options.dim,
        "ms": ms["ours"],
        "lightly_ms": ms["lightly"],
        "speedup_vs_lightly": round(ms["lightly"] / ms["ours"], 3),
        "peak_memory_ratio": round(peaks["ours"] / peaks["lightly"], 5),
    }
    same = segments == 1
    return row | ({"abs_diff": (values["ours"][0] - values["lightly"][0]).abs().item()} if same else {})


def _views(batch: int, options: argparse.Namespace) -> list[Tensor]:
    """First and second views [batch, dim], alike: leaves."""
    generator = torch.Generator().manual_seed(0)
    first = F.normalize(torch.randn(batch, options.dim, generator=generator), dim=1)
    second = F.normalize(first + 0.1 * torch.randn(batch, options.dim, generator=generator), dim=1)
    dtype = getattr(torch, options.dtype)
    return [each.to(options.device, dtype).requires_grad_() for each in (first, second)]
