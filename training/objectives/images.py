"""Images alone, two views of each: SimCLR and MoCo v2."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mcl_clip.loading.augment import Transform
from mcl_clip.loading.views import views_transform
from mcl_clip.loss import MCLMoCoLoss, MCLNTXentLoss
from mcl_clip.models.view_models import MomentumPair, TwoViews
from mcl_clip.plan.plan import Plan
from training.build import BuiltModel
from training.build_images import augmentations, build_backbone, build_from_image_stage, first_backbone
from training.objectives.objective import Learner, Objective
from training.ranks import Ranks


class _Images(Objective):
    """A timm backbone with a projection head, on two views."""

    reads_captions = False

    def first_weights(self) -> str:
        return first_backbone(self.recipe.model)

    def build_base(self, device: torch.device) -> BuiltModel:
        return build_backbone(self.recipe, device)

    def build_from_stage(self, directory: Path, device: torch.device, scratch_seed: int | None = None) -> BuiltModel:
        return build_from_image_stage(directory, self.recipe, device, scratch_seed)

    def transform(self, built: BuiltModel) -> Transform:
        return views_transform(built.preprocess_cfg, augmentations(self.recipe.objective))


class SimCLR(_Images):
    """NT-Xent: the negatives of a view are the views of other images of its segment."""

    def learner(self, built: BuiltModel, plan: Plan, ranks: Ranks) -> Learner:
        assert self.recipe.objective.temperature is not None
        loss = MCLNTXentLoss(
            temperature=self.recipe.objective.temperature, rank=ranks.rank, world_size=ranks.world_size
        )
        return Learner(TwoViews(built.model), loss)  # type: ignore[arg-type]


class Moco(_Images):
    """InfoNCE against keys of a momentum encoder, in a queue of each pseudo-label."""

    def learner(self, built: BuiltModel, plan: Plan, ranks: Ranks) -> Learner:
        settings = self.recipe.objective
        assert settings.temperature is not None and settings.queue is not None and settings.key_momentum is not None
        loss = MCLMoCoLoss(
            built.model_cfg["projection"]["dim"],
            plan.draws.size.tolist(),
            queue=settings.queue,
            temperature=settings.temperature,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
        pair = MomentumPair(built.model)  # type: ignore[arg-type]
        return _MocoLearner(pair, loss.to(ranks.device), settings.key_momentum)


class _MocoLearner(Learner):
    model: MomentumPair

    def __init__(self, model: MomentumPair, loss: MCLMoCoLoss, momentum: float) -> None:
        super().__init__(model, loss)
        self._momentum = momentum

    def updated(self) -> dict[str, Tensor]:
        self.model.follow(self._momentum)
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"slow": self.model.slow.state_dict(), "queue": self.loss.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.slow.load_state_dict(state["slow"])
        self.loss.load_state_dict(state["queue"])
