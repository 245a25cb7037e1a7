"""Images and captions: open_clip's training."""

import math
from pathlib import Path

import torch
from torch import Tensor

from mcl_clip.loading.augment import Transform, train_transform
from mcl_clip.plan.plan import Plan
from training.build import BuiltModel, base_weights, build_base, build_from_stage
from training.losses import make_loss
from training.objectives.objective import Learner, Objective
from training.ranks import Ranks


class Clip(Objective):
    """Two towers, with the softmax or the sigmoid loss."""

    reads_captions = True

    def first_weights(self) -> str:
        return base_weights(self.recipe.model)

    def build_base(self, device: torch.device) -> BuiltModel:
        return build_base(self.recipe.model, self.recipe.optimization.precision, self.recipe.seed, device)

    def build_from_stage(self, directory: Path, device: torch.device, scratch_seed: int | None = None) -> BuiltModel:
        return build_from_stage(directory, self.recipe.optimization.precision, device, scratch_seed)

    def transform(self, built: BuiltModel) -> Transform:
        return train_transform(built.preprocess_cfg, self.recipe.data.aug_cfg)

    def learner(self, built: BuiltModel, plan: Plan, ranks: Ranks) -> Learner:
        return ClipLearner(built.model, make_loss(self.recipe, ranks))


class ClipLearner(Learner):
    """Holds the logit scale within its bounds, and tells it."""

    @torch.no_grad()
    def updated(self) -> dict[str, Tensor]:
        scale: Tensor = self.model.logit_scale  # type: ignore[assignment]
        scale.clamp_(0, math.log(100))
        return {"logit_scale": scale.exp()}
