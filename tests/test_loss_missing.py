"""Positions without a sample: the loss and gradient of those that are left, on one rank and on several."""

import numpy as np
import pytest
import torch

from mcl_clip.loss import MCLClipLoss, MCLDistillLoss, MCLSigLipLoss
from mcl_clip.loss.missing import loss_without
from mcl_clip.plan.segments import SegmentLayout
from tests.distributed import run_ranks
from tests.slow_losses import features

SIZE, DIM, LAYOUT, MISSING = 12, 6, SegmentLayout((5, 1, 6)), (3, 5, 11)
LOSSES = {
    "clip": MCLClipLoss,
    "local": lambda **where: MCLClipLoss(local_loss=True, **where),
    "identical": lambda **where: MCLClipLoss(mask_identical=True, gather_with_grad=True, **where),
    "siglip": MCLSigLipLoss,
    "distil": lambda **where: MCLDistillLoss(MCLClipLoss(gather_with_grad=True, **where), 0.5, **where),
}
TEACHER = [each.detach() for each in features(SIZE, 2 * DIM, 8, torch.float64)]
CAPTIONS = torch.tensor([0, 1, 0, 0, 2, 2, 3, 4, 4, 3, 3, 5])[:, None]


def taught(name, rows):
    """What a student's loss takes besides, of some of the samples."""
    if name != "distil":
        return {}
    image, text = (each[rows] for each in TEACHER)
    return {"dist_image_features": image, "dist_text_features": text, "dist_logit_scale": torch.tensor(9.0)}


def measured(name, image, text, captions, world_size=1, **where):
    """Value, and gradients of features, scale and bias, as DDP averages the latter."""
    scale, bias = (torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in (11.0, -4.0))
    inputs = [image, text, scale, bias]
    loss = LOSSES[name](world_size=world_size, **where)
    value = loss_without(
        MISSING,
        loss,
        image_features=image,
        text_features=text,
        logit_scale=scale,
        logit_bias=bias,
        segments=LAYOUT,
        text_ids=captions,
        **taught(name, slice(where.get("rank", 0) * len(image), (where.get("rank", 0) + 1) * len(image))),
    )
    gradients = torch.autograd.grad(value, inputs)
    return [each.detach().numpy() for each in (value, *gradients)]


def inputs():
    return [each.detach().clone().requires_grad_() for each in features(SIZE, DIM, 3, torch.float64)]


def of_rank(rank, world_size):
    own = slice(rank * SIZE // world_size, (rank + 1) * SIZE // world_size)
    image, text = (each.detach()[own].clone().requires_grad_() for each in inputs())
    return {name: measured(name, image, text, CAPTIONS[own], world_size=world_size, rank=rank) for name in LOSSES}


@pytest.mark.parametrize("name", LOSSES)
def test_one_rank_has_the_loss_of_the_rows_that_are_there(name):
    value, image_gradient, text_gradient, *_ = measured(name, *inputs(), CAPTIONS)
    kept = [position for position in range(SIZE) if position not in MISSING]
    image, text = (each.detach()[kept].requires_grad_() for each in inputs())
    given = {"logit_bias": -4.0, "segments": SegmentLayout((4, 5)), "text_ids": CAPTIONS[kept]}
    expected = LOSSES[name]()(image, text, 11.0, **given, **taught(name, kept))
    gradients = torch.autograd.grad(expected, (image, text))
    assert value == pytest.approx(expected.item(), rel=1e-12)
    for found, wanted in zip((image_gradient, text_gradient), gradients, strict=True):
        np.testing.assert_allclose(found[kept], wanted.numpy(), atol=1e-12)
        assert not found[list(MISSING)].any()


def test_several_ranks_have_the_mean_of_one():
    ranks = run_ranks(of_rank, 3)
    for name in LOSSES:
        value, image, text, scale, bias = measured(name, *inputs(), CAPTIONS)
        for index, expected in enumerate((value, scale, bias)):
            found = [rank[name][(0, 3, 4)[index]] for rank in ranks]
            np.testing.assert_allclose(found, expected, atol=1e-12)
        for index, expected in ((1, image), (2, text)):
            # DDP divides the sum over ranks by their number.
            found = np.concatenate([rank[name][index] for rank in ranks]) / 3
            np.testing.assert_allclose(found, expected, atol=1e-12)
