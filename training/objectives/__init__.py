"""What a run is trained for: what is read, what the model is, what the loss is. All else of a run is the same."""

from training.objectives.clip import Clip
from training.objectives.images import Moco, SimCLR
from training.objectives.objective import Objective
from training.recipe import Recipe

_OBJECTIVES: dict[str, type[Objective]] = {"clip": Clip, "simclr": SimCLR, "moco": Moco}


def objective_of(recipe: Recipe) -> Objective:
    """The objective of a recipe."""
    return _OBJECTIVES[recipe.objective.objective](recipe)
