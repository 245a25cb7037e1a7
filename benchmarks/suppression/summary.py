"""What the page and the plots ask of the results: values over the study's seeds, and differences paired by seed."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.study.captioned import UNLOCKED_GROUPS
from benchmarks.study.models import Arm
from benchmarks.study.results import Results
from benchmarks.study.summary import Summary
from benchmarks.suppression.generated import Generated
from benchmarks.suppression.measures import MEASURES
from benchmarks.suppression.settings import CHOSEN, SEEDS
from demo.features import NAMES
from mcl_clip.models.tiny_conv import IMAGE_SIZE

PLACE = "generated"


SUMMARY = Summary(PLACE, SEEDS, CHOSEN.arms(), "pairs", NAMES)
values_of, differences, suppressed = SUMMARY.values_of, SUMMARY.differences, SUMMARY.suppressed
finished, arms_of = SUMMARY.finished, SUMMARY.arms_of


def towers(arm: Arm) -> float:
    """Image towers that an image costs: operations of all models, shared first blocks once, by those of one."""
    visual = Generated(Path(), Path(), 0).new_model(CHOSEN.base).visual
    image = torch.zeros(1, 3, IMAGE_SIZE, IMAGE_SIZE)
    shared = _operations(visual.trunk.blocks[:-UNLOCKED_GROUPS], image) / _operations(visual, image)
    return 1 + sum(1 - shared * each.locked for each in arm.models[1:])


def _operations(module: torch.nn.Module, image: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(image)
    return counter.get_total_flops()


def headline(results: Results) -> dict[str, Any]:
    """The study in one flat object."""
    hidden = suppressed(results)
    return {"seeds": len(SEEDS), "suppressed": hidden, **SUMMARY.means(results, MEASURES, hidden)}
