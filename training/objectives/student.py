"""A student: the objective's model, whose loss is the similarities of a teacher beside its own."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mcl_clip.fusion.stages import Stage
from mcl_clip.fusion.teacher import Teacher
from mcl_clip.loss import MCLDistillLoss, MCLNTXentLoss
from mcl_clip.models.image_model import ImageModel
from mcl_clip.plan.segments import SegmentLayout
from training.build import BuiltModel
from training.objectives.objective import Learner
from training.ranks import Ranks
from training.recipe import Recipe


def taught(recipe: Recipe, built: BuiltModel, own: Learner, ranks: Ranks) -> Learner:
    """The learner of a student of --distill-model; `UserError` for a teacher that cannot teach it.

    Images alone are taught the similarities of backbone features, which are what is fused, between two views.
    """
    settings, temperature = recipe.distill, recipe.objective.temperature
    assert settings.distill_model is not None and settings.distill_contrastive is not None
    teacher = Teacher(
        settings.distill_model,
        settings.distill_pretrained,
        Stage(built.model, built.configuration, built.tokenizer),
        ranks.device,
        recipe.optimization.precision,
    )
    place: dict[str, Any] = {"rank": ranks.rank, "world_size": ranks.world_size}
    if not settings.distill_contrastive:
        _hold_still(built.model)
    if temperature is None:
        learner = own
        learner.loss = MCLDistillLoss(own.loss, settings.distill_contrastive, **place)
        learner.targets = teacher.of_pairs
        return learner
    scale, projections = 1 / temperature, _OfProjections(MCLNTXentLoss(temperature=temperature, **place))
    learner = Learner(_Views(built.model, scale), MCLDistillLoss(projections, settings.distill_contrastive, **place))  # type: ignore[arg-type]
    learner.targets = lambda views, _: teacher.of_views(views, scale)
    return learner


def _hold_still(model: nn.Module) -> None:
    """Train nothing that only the student's own loss reads: DDP waits for a gradient of all that is trained."""
    for name in ("logit_bias", "projection"):
        if (part := getattr(model, name, None)) is not None:
            part.requires_grad_(False)


class _Views(nn.Module):
    """Views [B, 2, 3, H, W] to unit features and projections of both, in one pass."""

    def __init__(self, core: ImageModel, scale: float) -> None:
        super().__init__()
        self.core, self._scale = core, scale

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        features = self.core.visual(views.flatten(0, 1))
        units = normalize(features, dim=-1).unflatten(0, views.shape[:2])
        projected = normalize(self.core.projection(features), dim=-1).unflatten(0, views.shape[:2])
        return {
            "image_features": units[:, 0],
            "text_features": units[:, 1],
            "first_views": projected[:, 0],
            "second_views": projected[:, 1],
            "logit_scale": units.new_full((), self._scale, dtype=torch.float32),
        }


class _OfProjections(nn.Module):
    """NT-Xent of the projections, called as `MCLDistillLoss` calls it."""

    def __init__(self, loss: MCLNTXentLoss) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, *_: Tensor, first_views: Tensor, second_views: Tensor, segments: SegmentLayout | None) -> Tensor:
        return self.loss(first_views, second_views, segments=segments)
