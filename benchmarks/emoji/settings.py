"""What the study may vary, which artist and seeds are for choosing, and which arms are compared."""

from dataclasses import dataclass, replace
from typing import Any

from benchmarks.emoji.models import Arm, Model, Negatives
from benchmarks.emoji.packages import ARTISTS
from benchmarks.study.training import Recipe

CHOOSING_ARTIST = "twemoji"
CHOOSING_SEEDS = tuple(range(100, 104))
CONFIRMING_ARTISTS = tuple(artist for artist in ARTISTS if artist != CHOOSING_ARTIST)
CONFIRMING_SEEDS = (1, 2, 3)

BASE, LONG, ENSEMBLE, SNAPSHOTS, SHUFFLED, MCL = (
    "stage 0",
    "one long run",
    "ensemble",
    "snapshots",
    "shuffled labels",
    "MCL",
)
CONTROLS = (LONG, ENSEMBLE, SNAPSHOTS, SHUFFLED)
HARD, FROM_BASE = "hard-negative NCE", "MCL from the base"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One share of compute is `epochs` passes; every arm but stage 0 has `stages` + 1 of them.

    lr: of stage 0 and the ensemble; the others' own are rates of their further stages (of all of it for the long run).
    """

    epochs: int = 8
    stages: int = 2
    batch: int = 256
    lr: float = 1e-3
    long_lr: float = 1e-3
    snapshot_lr: float = 1e-3
    mcl_lr: float = 1e-3
    hard_lr: float = 1e-3
    wd: float = 0.1
    warmup: int = 20
    average: float | None = None
    shift: int = 0
    mask_identical: bool = False
    clusters: int = 16
    clustered: str = "images"
    min_segment: int = 32
    hardness: float = 0.5

    def recipe(self, lr: float, shares: int = 1) -> Recipe:
        """Of one model."""
        return Recipe(
            epochs=self.epochs * shares,
            batch=self.batch,
            lr=lr,
            wd=self.wd,
            warmup=self.warmup,
            average=self.average,
            mask_identical=self.mask_identical,
            min_segment=self.min_segment,
        )

    def negatives(self, models: list[Model]) -> Negatives:
        """Of a stage after `models`."""
        return Negatives(models=tuple(models), clusters=self.clusters, of=self.clustered)

    def arms(self) -> dict[str, Arm]:
        """All arms by name, in the order of the report."""
        stages = range(1, self.stages + 1)
        base = Model(recipe=self.recipe(self.lr), shift=self.shift)
        further = replace(base, recipe=self.recipe(self.mcl_lr))
        long = replace(base, recipe=self.recipe(self.long_lr, self.stages + 1))
        independent = [replace(base, draw=stage) for stage in stages]
        snapshots, hard, mcl, shuffled, from_base = ([base] for _ in range(5))
        for stage in stages:
            draw = 10 + stage
            snapshots.append(replace(base, recipe=self.recipe(self.snapshot_lr), draw=draw, start=snapshots[-1]))
            hard.append(
                replace(base, recipe=self.recipe(self.hard_lr), draw=draw, start=hard[-1], hardness=self.hardness)
            )
            labels, own = (
                Negatives(models=tuple(models), clusters=self.clusters, of=self.clustered)
                for models in (mcl, from_base)
            )
            dealt = replace(labels, shuffled=True)
            shuffled.append(replace(further, draw=draw, start=shuffled[-1], negatives=dealt))
            mcl.append(replace(further, draw=draw, start=mcl[-1], negatives=labels))
            from_base.append(replace(further, draw=draw, start=base, negatives=own))
        arms = {
            BASE: [base],
            LONG: [long],
            ENSEMBLE: [base, *independent],
            SNAPSHOTS: snapshots,
            SHUFFLED: shuffled,
            MCL: mcl,
            HARD: hard,
            FROM_BASE: from_base,
        }
        return {name: Arm(name, tuple(models)) for name, models in arms.items()}


# Tried on the choosing artist and seeds; what is tried stays, with its result.
TRIES: dict[str, dict[str, Any]] = {
    "as a first look": {},
    "warm-up 200": {"warmup": 200},
    "mean of weights": {"warmup": 200, "average": 0.998},
    "mean of weights, moved pictures": {"warmup": 200, "average": 0.998, "shift": 2},
    "mean of weights, moved pictures, identical captions masked": {
        "warmup": 200,
        "average": 0.998,
        "shift": 2,
        "mask_identical": True,
    },
    "mean of weights, moved pictures, batch 512": {"warmup": 100, "average": 0.996, "shift": 2, "batch": 512},
    "mean of weights, moved pictures, twice as long": {"warmup": 200, "average": 0.998, "shift": 2, "epochs": 16},
    "mean of weights, moved pictures, half the rate": {
        "warmup": 200,
        "average": 0.998,
        "shift": 2,
        "lr": 5e-4,
        "long_lr": 5e-4,
        "mcl_lr": 5e-4,
    },
}
TRIED_ARMS = (BASE, LONG, MCL)
CHOSEN: Settings | None = None  # set, and committed, before the confirming artists are looked at
