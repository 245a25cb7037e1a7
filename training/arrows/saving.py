"""When a stage in training is saved, and its finished model."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mcl_clip.models.stage_model import save_stage_model
from training.build import BuiltModel
from training.recipe import SavingRecipe


class SaveClock:
    """Tells when the next checkpoint is due: by epochs, steps, or minutes since the last."""

    def __init__(self, recipe: SavingRecipe) -> None:
        self._recipe = recipe
        self.saved()

    def saved(self) -> None:
        """A checkpoint was written."""
        self._since = time.monotonic()

    def is_due(self, steps: int, epochs: int | None) -> bool:
        """Whether one is due after so many steps; `epochs` completed, when the last of them ends one."""
        recipe = self._recipe
        by_epoch = epochs is not None and recipe.save_frequency > 0 and epochs % recipe.save_frequency == 0
        by_step = recipe.save_steps > 0 and steps % recipe.save_steps == 0
        by_time = recipe.save_minutes > 0 and time.monotonic() - self._since > 60 * recipe.save_minutes
        return by_epoch or by_step or by_time


def save_built(built: BuiltModel, directory: Path, stage: int, made_from: Mapping[str, Any]) -> None:
    """Write a stage's model with the record of what it is made of."""
    save_stage_model(
        built.model,
        directory,
        model_cfg=built.model_cfg,
        preprocess_cfg=built.preprocess_cfg,
        tokenizer=built.tokenizer,
        extra={"stage": stage, "made_from": dict(made_from)},
    )
