"""The generated world, what was tried on seeds of its own, what was chosen there, and all arms of the study."""

from dataclasses import dataclass, replace
from typing import Any

import mcl_clip.models  # noqa: F401  registers the tower
from benchmarks.study import settings as study
from benchmarks.study.models import Arm, Negatives
from benchmarks.study.settings import FROM_BASE, HARD, STUDENT
from demo.features import NAMES

MODEL = "mcl-tiny-conv"
CHOOSING_SEEDS = (100,)
SEEDS = (1, 2, 3, 4, 5)
ORACLE_SEEDS = (1, 2)
LOCKED, SCRATCH, ORACLE = "MCL, text and half of the image tower locked", "MCL from scratch", "oracle, all features"
RELATIVES = (HARD, FROM_BASE, SCRATCH, LOCKED)
ORACLE_DRAW = 30


@dataclass(frozen=True, kw_only=True)
class World:
    """`images` training samples, of which whole captions, a share `fit_share`, are set apart from every arm's training.

    mention: probability that a caption names a feature, for `hard` (the named features) and for all others.
    """

    images: int = 14_000
    fit_share: float = 0.143
    pairs: int = 300
    test_images: int = 2_000
    mention: float = 0.9
    mention_hard: float = 0.6
    hard: tuple[str, ...] = ("texture",)
    embed_dim: int = 64

    def mentions(self) -> dict[str, float]:
        """Probability by feature."""
        return {name: self.mention_hard if name in self.hard else self.mention for name in NAMES}


@dataclass(frozen=True, kw_only=True)
class Settings(study.Settings):
    """Of the study."""

    def arms(self) -> dict[str, Arm]:
        """All arms by name but the oracle's."""
        arms = super().arms() | {
            SCRATCH: Arm(SCRATCH, self.further(self.mcl_lr, labels=True, start="scratch")),
            LOCKED: Arm(LOCKED, self.further(self.mcl_lr, labels=True, locked=True)),
        }
        return arms

    def oracle(self) -> dict[str, Arm]:
        """Models whose negatives agree in all features but one, and all of them fused."""
        # True labels are many and small; pooled ones would have negatives that differ in other features too.
        recipe = replace(self.recipe(self.mcl_lr), min_segment=2)
        models = {
            name: replace(
                self.base,
                recipe=recipe,
                start=self.base,
                draw=ORACLE_DRAW + number,
                negatives=Negatives(alike=name),
            )
            for number, name in enumerate(NAMES)
        }
        alone = {name: Arm(oracle_name(name), (model,)) for name, model in models.items()}
        return {ORACLE: Arm(ORACLE, (self.base, *models.values()))} | {arm.name: arm for arm in alone.values()}


def oracle_name(feature: str) -> str:
    """Of the arm that has learned one feature."""
    return f"oracle, {feature} alone"


# Every arm's own rate, tried on the choosing seeds; all tries stay, with their results.
RATES = (5e-4, 1e-3, 2e-3, 4e-3)
LOW_RATES = (2.5e-4, 5e-4, 1e-3, 2e-3)
RATE_OF = {**study.RATE_OF, HARD: "hard_lr"}
CHOSEN = Settings(
    long_lr=2e-3,
    ensemble_lr=2e-3,
    snapshot_lr=2e-3,
    shuffled_lr=2e-3,
    mcl_lr=2e-3,
    hard_lr=5e-4,
    student_lr=2e-3,
    student_ordinary=0.5,
    student_contrastive=0.0,
)


def tries() -> dict[str, dict[float, Arm]]:
    """{arm: {rate: the arm at that rate, all else as it was before}}."""
    low = {HARD: RATE_OF[HARD]}
    return study.at_rates(Settings(), study.RATE_OF, RATES) | study.at_rates(Settings(), low, LOW_RATES)


# How a student of the chosen MCL learns, tried on the choosing seeds: rate, share of samples with ordinary negatives.
STUDENT_TRIES: dict[str, dict[str, Any]] = {
    "rate 1e-3, half ordinary": {"student_lr": 1e-3, "student_ordinary": 0.5},
    "rate 5e-4, half ordinary": {"student_lr": 5e-4, "student_ordinary": 0.5},
    "rate 2e-3, half ordinary": {"student_lr": 2e-3, "student_ordinary": 0.5},
    "rate 1e-3, all ordinary": {"student_lr": 1e-3, "student_ordinary": 1.0},
    "rate 1e-3, half ordinary, own loss 0.5": {
        "student_lr": 1e-3,
        "student_ordinary": 0.5,
        "student_contrastive": 0.5,
    },
    "rate 1e-3, none ordinary": {"student_lr": 1e-3, "student_ordinary": 0.0},
    "rate 1e-3, half ordinary, from the soup": {
        "student_lr": 1e-3,
        "student_ordinary": 0.5,
        "student_from_soup": True,
    },
}


def tried_students() -> dict[str, Arm]:
    """{what was tried: the student's arm}."""
    return {name: replace(CHOSEN, **changed).one_tower()[STUDENT] for name, changed in STUDENT_TRIES.items()}


QUICK_WORLD: dict[str, Any] = {"images": 1024, "pairs": 20, "test_images": 120}
QUICK: dict[str, Any] = {"epochs": 1, "batch": 128, "clusters": 3, "warmup": 2}
