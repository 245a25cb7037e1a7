"""One changed setting at a time, on one seed: MCL scored after every stage."""

from dataclasses import replace
from typing import Any

from benchmarks.study.models import Arm
from benchmarks.study.settings import BASE, MCL
from benchmarks.suppression.settings import CHOSEN, World

CHANGED: dict[str, dict[str, Any]] = {
    "as the study": {},
    "K = 4": {"clusters": 4},
    "K = 8": {"clusters": 8},
    "K = 32": {"clusters": 32},
    "three further stages": {"stages": 3},
    "labels of the last stage alone": {"last_labels_only": True},
    # With K = 16 no pseudo-label of the second further stage fills a global batch.
    "K = 4, leftovers dropped": {"clusters": 4, "leftovers": "drop"},
    "a quarter of the samples with ordinary negatives": {"ordinary": 0.25},
    "batch 128": {"batch": 128},
    "batch 512": {"batch": 512},
}
CHANGED_WORLDS: dict[str, dict[str, Any]] = {
    "every feature always in the caption": {"mention": 1.0, "mention_hard": 1.0},
    "texture in 90 % of the captions": {"mention_hard": 0.9},
    "texture in 40 % of the captions": {"mention_hard": 0.4},
    "embedding width 16": {"embed_dim": 16},
    "embedding width 128": {"embed_dim": 128},
}


def ablations() -> dict[str, tuple[World, list[Arm]]]:
    """{what is changed: the world, and stage 0 and MCL after every further stage in it}."""
    found = {name: (World(), _after_every_stage(changed)) for name, changed in CHANGED.items()}
    return found | {
        name: (replace(World(), **changed), _after_every_stage({})) for name, changed in CHANGED_WORLDS.items()
    }


def _after_every_stage(changed: dict[str, Any]) -> list[Arm]:
    models = replace(CHOSEN, **changed).arms()[MCL].models
    return [Arm(f"{MCL}, {last} further" if last else BASE, models[: last + 1]) for last in range(len(models))]
