"""What a run is trained for: what is read, what the model is, what the loss is. All else of a run is the same."""

from mcl_clip.plan.plan import Plan
from training.build import BuiltModel
from training.objectives.clip import Clip
from training.objectives.images import Moco, SimCLR
from training.objectives.objective import Learner, Objective
from training.objectives.student import taught
from training.ranks import Ranks
from training.recipe import Recipe

_OBJECTIVES: dict[str, type[Objective]] = {"clip": Clip, "simclr": SimCLR, "moco": Moco}


def learner_of(recipe: Recipe, built: BuiltModel, plan: Plan, ranks: Ranks) -> Learner:
    """Model and loss of a stage, a student's where the recipe names a teacher; see `Objective.learner`."""
    own = objective_of(recipe).learner(built, plan, ranks)
    return taught(recipe, built, own, ranks) if recipe.distill.distill_model else own


def objective_of(recipe: Recipe) -> Objective:
    """The objective of a recipe."""
    return _OBJECTIVES[recipe.objective.objective](recipe)
