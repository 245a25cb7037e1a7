"""The loss of the recipe."""

from mcl_clip.loss import MCLClipLoss, MCLSigLipLoss
from training.ranks import Ranks
from training.recipe import Recipe


def make_loss(recipe: Recipe, ranks: Ranks) -> MCLClipLoss | MCLSigLipLoss:
    """Softmax or, with --siglip, sigmoid loss over the segments of the global batch."""
    optimization = recipe.optimization
    if recipe.model.siglip:
        return MCLSigLipLoss(rank=ranks.rank, world_size=ranks.world_size, mask_identical=optimization.mask_identical)
    return MCLClipLoss(
        local_loss=optimization.local_loss,
        gather_with_grad=optimization.gather_with_grad,
        rank=ranks.rank,
        world_size=ranks.world_size,
        mask_identical=optimization.mask_identical,
    )
