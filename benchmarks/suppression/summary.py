"""What the page and the plots ask of the results: values over the study's seeds, and differences paired by seed."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.study.captioned import UNLOCKED_GROUPS
from benchmarks.study.models import Arm
from benchmarks.study.results import Results
from benchmarks.study.settings import BASE, CONTROLS, MCL
from benchmarks.study.units import CONCAT
from benchmarks.suppression.generated import Generated
from benchmarks.suppression.measures import MEASURES
from benchmarks.suppression.settings import CHOSEN, SEEDS
from demo.features import NAMES
from mcl_clip.models.tiny_conv import IMAGE_SIZE

PLACE = "generated"


def values_of(results: Results, arm: Arm, measure: str, fusion: str = CONCAT) -> list[float]:
    """One fraction a seed of the study; a single model is its own fusion."""
    found = results.scores(arm, PLACE, measure, fusion if len(arm.models) > 1 else CONCAT)
    return [value for seed, value in found.items() if seed in SEEDS]


def differences(
    results: Results, arm: Arm, other: Arm, measure: str, fusion: str = CONCAT, less: str = ""
) -> list[float]:
    """As of `Results.differences`, on the seeds of the study."""
    found = results.differences(arm, other, PLACE, measure, fusion, less)
    return [value for seed, value in found.items() if seed in SEEDS]


def suppressed(results: Results) -> str:
    """The feature on which stage 0 has the lowest pair accuracy over all seeds."""
    return min(NAMES, key=lambda name: np.mean(values_of(results, CHOSEN.arms()[BASE], f"pairs {name}")))


def finished(results: Results) -> bool:
    """Whether two seeds or more have all arms of the primary comparisons, so that there are intervals."""
    arms = CHOSEN.arms()
    return min(len(values_of(results, arms[name], "pairs mean")) for name in (BASE, *CONTROLS, MCL)) > 1


def arms_of(results: Results) -> dict[str, Arm]:
    """Arms that have run on seeds of the study."""
    return {name: arm for name, arm in CHOSEN.arms().items() if values_of(results, arm, "pairs mean")}


def towers(arm: Arm) -> float:
    """Image towers that an image costs: operations of all models, shared first blocks once, by those of one."""
    visual = Generated(Path(), Path(), 0).new_model(0).visual
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
    found: dict[str, Any] = {"seeds": len(SEEDS), "suppressed": hidden}
    for name, arm in arms_of(results).items():
        for measure in MEASURES:
            for feature in ("mean", hidden):
                values = values_of(results, arm, f"{measure} {feature}")
                found[f"{name} | {measure} | {feature}"] = round(float(np.mean(values)), 4)
    return found
