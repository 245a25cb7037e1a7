"""Images many times as long as wide give what resizing them whole gives, without ever being that large."""

import numpy as np
import pytest
import torch

from mcl_clip.loading import augment, long_images
from mcl_clip.loading.augment import EvalTransform, eval_transform, resize
from tests.test_decode import encoded, picture

MEAN = STD = (0.5,) * 3
MODES = ["shortest", "longest", "squash"]


@pytest.fixture
def largest(monkeypatch):
    """Sides of all that is resized; none may be larger than a picture of the model or the file itself."""
    sides = []

    def spy(image, size, mode):
        sides.append(size)
        assert size[0] * size[1] <= 300_000, f"an image would be resized to {size}"
        return resize(image, size, mode)

    monkeypatch.setattr(augment, "resize", spy)
    return sides


def whole(transform, data, monkeypatch):
    """The slow twin: as every other picture."""
    with monkeypatch.context() as patch:
        patch.setattr(augment, "is_long", lambda *_: False)
        return transform(data)[0]


@pytest.mark.parametrize("shape", [(6, 100), (100, 6), (1, 120), (120, 1), (90, 1300), (1300, 90), (33, 265)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_long_images_are_resized_as_others(monkeypatch, shape, mode, size, interpolation):
    transform = EvalTransform(size, MEAN, STD, mode, interpolation, 7)
    noise = encoded(picture(*shape), "PNG")
    ours, slow = transform(noise)[0], whole(transform, noise, monkeypatch)
    assert ours.shape == slow.shape == (3, *size) and ours.dtype == slow.dtype
    assert (ours.int() - slow.int()).abs().max() <= 1


@pytest.mark.parametrize("shape", [(10, 80), (80, 10), (25, 199)])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_up_to_eight_times_as_long_the_bits_are_as_ever(monkeypatch, shape, mode, size):
    transform, data = EvalTransform(size, MEAN, STD, mode), encoded(picture(*shape), "PNG")
    monkeypatch.setattr(long_images.Image.Image, "resize", lambda *_: pytest.fail("is taken for a long one"))
    assert torch.equal(transform(data)[0], whole(transform, data, monkeypatch))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [224, (224, 160)])
def test_a_line_of_pixels_takes_little_memory(largest, mode, size):
    row = np.random.default_rng(0).integers(0, 256, (1, 60_000, 3), np.uint8)
    for pixels in (row, row.transpose(1, 0, 2)):
        line = encoded(long_images.Image.fromarray(np.ascontiguousarray(pixels)), "PNG")
        image, _ = eval_transform({"size": size, "resize_mode": mode})(line)
        assert image.shape[1:] == augment.size_pair(size)
    assert all(min(sides) > 0 for sides in largest)
    if mode == "squash":  # the long side first, for the kernel would begin with the width
        assert largest[1:] == [(224, 1), augment.size_pair(size)]
