"""The random numbers of a training step, on the host and on the device."""

import pytest
import torch

from mcl_clip.openclip.towers import PatchDropout
from training.step import TrainingStep


@pytest.fixture
def masks(monkeypatch):
    """A function of (step, rank): which of 64 patches are kept, as a rank that trains on a GPU draws them."""
    device = torch.Generator()
    monkeypatch.setattr(torch.cuda, "default_generators", (device,))

    def masks(step, rank, kind="cuda"):
        training = TrainingStep.__new__(TrainingStep)
        training._entropy, training._rank, training._device = (0, 1), rank, torch.device(kind)
        training._reseed(step)
        patches = torch.arange(64.0).reshape(1, 64, 1)
        kept = PatchDropout(0.5, exclude_first_token=False)(patches)
        return kept.flatten().tolist(), device.initial_seed()

    with torch.random.fork_rng(devices=[]):
        yield masks


def test_patch_dropout_differs_by_step_and_rank_and_comes_back_on_a_resume(masks):
    drawn = {(step, rank): masks(step, rank) for step in range(3) for rank in range(2)}
    assert len({tuple(kept) for kept, _ in drawn.values()}) == len({seed for _, seed in drawn.values()}) == 6
    for (step, rank), found in drawn.items():
        torch.rand(step + 7)  # whatever was drawn in between
        assert masks(step, rank) == found


def test_the_device_does_not_change_what_is_drawn_on_the_host(masks):
    assert masks(2, 1)[0] == masks(2, 1, "cpu")[0]
