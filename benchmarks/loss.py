"""Forward and backward of MCLClipLoss, open_clip's ClipLoss and a masked matrix, by turns: time and peak memory.

Also by turns: segments of unequal against those of equal length, long beside short ones against the two apart, and
`loss_by_label` against ClipLoss.
"""

import argparse
import json
from functools import partial

import torch
from open_clip.loss import ClipLoss
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.steps import by_turns, forward_backward
from mcl_clip.loss import MCLClipLoss, loss_by_label
from mcl_clip.plan.segments import SegmentLayout

DIM, SCALE = 512, 1 / 0.07


def main(arguments: list[str] | None = None) -> int:
    """Print one line: the first point of the grid at the top level, every point in `grid`, other kinds by name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument(
        "--objective", default="clip", choices=["clip", "simclr"], help="simclr: NT-Xent against lightly's"
    )
    parser.add_argument("--batch", type=int, help="largest batch of the grid (default 8192; simclr 4096)")
    parser.add_argument("--buckets", type=int, nargs="+", help="measure these at --batch, not the grid")
    parser.add_argument("--dim", type=int, help="of features (default 512; simclr 128)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds, of which the median counts")
    options = parser.parse_args(arguments)
    batch, dim = (8192, DIM) if options.objective == "clip" else (4096, 128)
    options.batch, options.dim = options.batch or batch, options.dim or dim
    result = (measure_pairs if options.objective == "clip" else _measure_views)(options) | {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else options.device,
        "dtype": options.dtype,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": options.repeats,
    }
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


def _measure_views(options: argparse.Namespace) -> dict:
    from benchmarks.loss_views import measure_views

    return measure_views(options)


def measure_pairs(options: argparse.Namespace) -> dict:
    """The grid of MCLClipLoss and ClipLoss, and the other kinds."""
    small = max(options.batch // 4, 1)
    points = [(options.batch, 8), (options.batch, 1), (small, 8), (small, 1), (small, max(small // 16, 1))]
    if options.buckets:
        points = [(options.batch, buckets) for buckets in options.buckets]
    rows = [measure(batch, buckets, options) for batch, buckets in points]
    kinds = {} if options.buckets else {each.__name__: each(options) for each in (ragged, mixed, by_label)}
    return rows[0] | {"grid": rows} | kinds


def measure(batch: int, buckets: int, options: argparse.Namespace) -> dict:
    """One point; ms are medians, memory is the allocator's peak less what stood before."""
    layout = SegmentLayout(tuple((batch * (i + 1)) // buckets - batch * i // buckets for i in range(buckets)))
    inputs, labels = features(batch, options), labels_of(layout, options)
    ms, peaks, values = by_turns(
        {
            "ours": partial(forward_backward, partial(MCLClipLoss(), segments=layout), inputs),
            "clip_loss": partial(forward_backward, ClipLoss(), inputs),
            "masked": partial(forward_backward, partial(masked_loss, labels=labels), inputs),
        },
        options,
    )
    differences = [(a - b).abs().max().item() for a, b in zip(values["ours"], values["masked"], strict=True)]
    return {
        "batch": batch,
        "buckets": buckets,
        "dim": options.dim,
        "ms": ms["ours"],
        "clip_loss_ms": ms["clip_loss"],
        "masked_ms": ms["masked"],
        "speedup_vs_clip_loss": round(ms["clip_loss"] / ms["ours"], 3),
        "speedup_vs_masked": round(ms["masked"] / ms["ours"], 3),
        "peak_memory_ratio": round(peaks["ours"] / peaks["clip_loss"], 5),
        "max_abs_diff": max(differences),
        "peak_mib": {name: round(peak / 2**20, 1) for name, peak in peaks.items()},
    }


def ragged(options: argparse.Namespace) -> dict:
    """Segments of 16 samples and one more or less, in any order, against as many of 16."""
    count = options.batch // 16
    lengths = torch.tensor([15, 17] * (count // 2) + [16] * (count % 2))
    uneven = SegmentLayout(tuple(lengths[torch.randperm(count, generator=_generator())].tolist()))
    layouts = {"ragged": uneven, "equal": SegmentLayout((16,) * count)}
    inputs = features(16 * count, options)
    steps = {
        name: partial(forward_backward, partial(MCLClipLoss(), segments=layout), inputs)
        for name, layout in layouts.items()
    }
    ms, peaks, _ = by_turns(steps, options)
    with _Operations() as operations:
        steps["ragged"]()
    return {
        "segments": count,
        "operations": operations.count,
        "ms": ms,
        "time_vs_equal": round(ms["ragged"] / ms["equal"], 3),
        "memory_vs_equal": round(peaks["ragged"] / peaks["equal"], 3),
    }


def mixed(options: argparse.Namespace) -> dict:
    """One segment of half the batch beside segments of 8, against the two apart."""
    half = options.batch // 2
    lengths = {"long": (half,), "short": (8,) * (half // 8), "both": (half,) + (8,) * (half // 8)}
    steps = {}
    for name, each in lengths.items():
        loss = partial(MCLClipLoss(), segments=SegmentLayout(each))
        steps[name] = partial(forward_backward, loss, features(sum(each), options))
    ms, peaks, _ = by_turns(steps, options)
    return {
        "segments": len(lengths["both"]),
        "ms": ms,
        "time_vs_sum": round(ms["both"] / (ms["long"] + ms["short"]), 3),
        "memory_vs_sum": round(peaks["both"] / (peaks["long"] + peaks["short"]), 3),
    }


def by_label(options: argparse.Namespace) -> dict:
    """`loss_by_label`, a label to 16 samples in any order, against ClipLoss."""
    labels = torch.randint(options.batch // 16, (options.batch,), generator=_generator()).to(options.device)
    inputs = features(options.batch, options)
    steps = {
        "by_label": partial(
            forward_backward, lambda image, text, scale: loss_by_label(image, text, labels, scale), inputs
        ),
        "clip_loss": partial(forward_backward, ClipLoss(), inputs),
    }
    ms, _, _ = by_turns(steps, options)
    return {
        "labels": len(labels.unique()),
        "ms": ms,
        "speedup_vs_clip_loss": round(ms["clip_loss"] / ms["by_label"], 3),
    }


def features(batch: int, options: argparse.Namespace) -> list[Tensor]:
    """Image and text features [batch, dim], alike, and a scale: leaves."""
    generator = _generator()
    text = F.normalize(torch.randn(batch, options.dim, generator=generator), dim=1)
    image = F.normalize(text + 0.1 * torch.randn(batch, options.dim, generator=generator), dim=1)
    inputs = [each.to(options.device, getattr(torch, options.dtype)).requires_grad_() for each in (image, text)]
    return [*inputs, torch.tensor(SCALE, device=options.device, requires_grad=True)]


def labels_of(layout: SegmentLayout, options: argparse.Namespace) -> Tensor:
    """The segment of each position."""
    return torch.arange(len(layout.lengths)).repeat_interleave(torch.tensor(layout.lengths)).to(options.device)


class _Operations(TorchDispatchMode):
    """Counts them."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def masked_loss(image: Tensor, text: Tensor, scale: Tensor, labels: Tensor) -> Tensor:
    """What one writes first: the whole matrix, minus infinity across labels."""
    logits = (scale * image @ text.T).float().masked_fill(labels[:, None] != labels, -torch.inf)
    targets = torch.arange(len(image), device=image.device)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


if __name__ == "__main__":
    raise SystemExit(main())
