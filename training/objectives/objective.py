"""What the arrows and the training loop ask of an objective."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mcl_clip.loading.augment import Transform
from mcl_clip.plan.plan import Plan
from training.build import BuiltModel
from training.ranks import Ranks
from training.recipe import Recipe


class Learner:
    """A model in training and its loss: `loss(**model(images, texts if any), segments=...)`.

    model: what DDP wraps; what it trains is that of the objective's BuiltModel. loss: over the global batch. targets:
    what the loss takes besides, without gradient, of a micro-batch's images and texts.
    """

    targets: Callable[[Tensor, Tensor], dict[str, Tensor]] | None = None

    def __init__(self, model: nn.Module, loss: nn.Module) -> None:
        self.model, self.loss = model, loss

    def updated(self) -> dict[str, Tensor]:
        """What is to be done after the optimizer's step; gives numbers for the log, still on the device."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds besides the model and the optimizer."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As `state_dict` gave it."""


class Objective(ABC):
    """One way to train a run's stages. reads_captions: whether samples need captions."""

    reads_captions: ClassVar[bool]

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    @abstractmethod
    def first_weights(self) -> str:
        """What stage 0's first weights are, as a name, with the hash of local files."""

    @abstractmethod
    def build_base(self, device: torch.device) -> BuiltModel:
        """Stage 0's model; `UserError` when it cannot be built."""

    @abstractmethod
    def build_from_stage(self, directory: Path, device: torch.device, scratch_seed: int | None = None) -> BuiltModel:
        """A model of a stage directory, or one like it with new weights drawn from `scratch_seed`."""

    @abstractmethod
    def transform(self, built: BuiltModel) -> Transform:
        """What a reader makes of an image's bytes."""

    @abstractmethod
    def learner(self, built: BuiltModel, plan: Plan, ranks: Ranks) -> Learner:
        """Model and loss of a stage; plan: of any epoch, whose pseudo-labels are those of all but for ordinary ones."""
