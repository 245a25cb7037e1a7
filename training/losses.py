"""The loss of the recipe."""

from mcl_clip.loss import MCLClipLoss, MCLSigLipLoss
from training.ranks import Ranks
from training.recipe import Recipe


def make_loss(recipe: Recipe, ranks: Ranks) -> MCLClipLoss | MCLSigLipLoss:
    """Softmax or, with --siglip, sigmoid loss over the segments of the global batch."""
    place = {"rank": ranks.rank, "world_size": ranks.world_size, "mask_identical": recipe.optimization.mask_identical}
    if recipe.model.siglip:
        return MCLSigLipLoss(**place)
    return MCLClipLoss(
        local_loss=recipe.optimization.local_loss, gather_with_grad=recipe.optimization.gather_with_grad, **place
    )
