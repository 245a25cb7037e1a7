"""Two views of an image: colours against torchvision, random numbers, and the loader that hands them on."""

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF

from mcl_clip.loading import colour
from mcl_clip.loading.decode import decode_rgb
from mcl_clip.loading.loader import GlobalBatchLoader
from mcl_clip.loading.views import BLUR_FROM, Augmentations, ViewsTransform, views_transform
from mcl_clip.shards.captions import NO_CAPTIONS
from mcl_clip.shards.index import index_sources
from tests.tars import image_bytes, write_shards

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
PLAIN = Augmentations(scale=(1.0, 1.0), flip=0, jitter=0, gray=0, blur=0)
words = np.random.default_rng(0).integers(0, 2**64, 25, np.uint64)


def pixels(seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (3, 9, 7)).astype(np.float32)
    noise[:, 0] = noise[0, 0]  # grays, whose hue is undefined
    return noise


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
@pytest.mark.parametrize(("index", "name"), enumerate(["brightness", "contrast", "saturation"]))
def test_changes_are_torchvisions(index, name, factor):
    factors = [1.0, 1.0, 1.0, 0.0]
    factors[index] = factor
    expected = getattr(TF, f"adjust_{name}")(torch.from_numpy(pixels() / 255), factor).numpy() * 255
    np.testing.assert_allclose(colour.jitter(pixels(), tuple(factors), (index,)), expected, atol=2e-2)


@pytest.mark.parametrize("turns", [-0.5, -0.2, 0.0, 0.13, 0.5])
def test_hues_are_torchvisions(turns):
    expected = TF.adjust_hue(torch.from_numpy(pixels() / 255), turns).numpy() * 255
    np.testing.assert_allclose(colour.shift_hue(pixels(), turns), expected, atol=2e-2)


def test_the_order_of_changes_counts():
    factors = (1.6, 0.5, 0.3, 0.2)
    image = torch.from_numpy(pixels() / 255)
    expected = TF.adjust_contrast(TF.adjust_hue(TF.adjust_saturation(TF.adjust_brightness(image, 1.6), 0.3), 0.2), 0.5)
    np.testing.assert_allclose(colour.jitter(pixels(), factors, (0, 2, 3, 1)), expected.numpy() * 255, atol=2e-2)
    assert len(set(colour.ORDERS)) == 24


def test_views_differ_and_depend_on_the_samples_words_alone():
    transform = ViewsTransform((24, 24), MEAN, STD)
    data = image_bytes(1, size=40)
    views, fast = transform(data, words)
    assert views.shape == transform.shape == (2, 3, 24, 24) and views.dtype == torch.uint8 and fast
    assert torch.equal(transform.of_image(decode_rgb(data)[0], words), views)
    assert not torch.equal(views[0], views[1])
    assert torch.equal(transform(data, words.copy())[0], views)
    assert not torch.equal(transform(data, words[1:])[0], views)
    # A view is the same however many there are.
    more = ViewsTransform((24, 24), MEAN, STD, views=3)(data, words)[0]
    assert torch.equal(more[:2], views)


def test_each_augmentation_does_what_it_says():
    data = image_bytes(2, size=70, extension="png")
    plain = ViewsTransform((70, 70), MEAN, STD, PLAIN)(data, words)[0]
    image = plain[0]
    assert torch.equal(plain[0], plain[1])
    flipped = ViewsTransform((70, 70), MEAN, STD, Augmentations((1.0, 1.0), 1, 0, gray=0, blur=0))(data, words)[0]
    assert torch.equal(flipped[0], image.flip(2))
    gray = ViewsTransform((70, 70), MEAN, STD, Augmentations((1.0, 1.0), 0, 0, gray=1, blur=0))(data, words)[0]
    expected = TF.rgb_to_grayscale(image.float(), 3)
    assert (gray[0].float() - expected).abs().max() <= 0.51
    blurred = ViewsTransform((70, 70), MEAN, STD, Augmentations((1.0, 1.0), 0, 0, gray=0, blur=1, sigma=(2, 2)))
    assert blurred(data, words)[0][0].float().diff(dim=2).abs().sum() < image.float().diff(dim=2).abs().sum()
    dark = Augmentations((1.0, 1.0), 0, 1, (1.0, 0.0, 0.0, 0.0), gray=0, blur=0)
    views = ViewsTransform((70, 70), MEAN, STD, dark)(data, words)[0].float()
    # Between black and twice as bright, another brightness each.
    ratios = [(view.sum() / image.float().sum()).item() for view in views]
    assert 0 <= min(ratios) < max(ratios) <= 2


def test_frequencies_are_the_probabilities():
    data = image_bytes(3, size=8, extension="png")
    transform = ViewsTransform((8, 8), MEAN, STD, Augmentations((1.0, 1.0), 0.25, 0, gray=0, blur=0))
    image = ViewsTransform((8, 8), MEAN, STD, PLAIN)(data, words)[0][0]
    many = np.random.default_rng(5).integers(0, 2**64, (500, 25), np.uint64)
    flipped = np.mean([[torch.equal(view, image.flip(2)) for view in transform(data, each)[0]] for each in many])
    assert abs(flipped - 0.25) < 4 * (0.25 * 0.75 / 1000) ** 0.5


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_a_blurred_pixel_is_the_mean_of_all_under_gaussian_weights(sigma):
    image = np.random.default_rng(0).uniform(0, 255, (3, 5, 8)).astype(np.float32)
    found = colour.blur(image, sigma)
    for y, x in ((0, 0), (2, 3), (4, 7)):
        weights = {(v, u): np.exp(-((v - y) ** 2 + (u - x) ** 2) / (2 * sigma**2)) for v in range(5) for u in range(8)}
        for channel in range(3):
            mean = sum(weight * image[channel, v, u] for (v, u), weight in weights.items()) / sum(weights.values())
            assert abs(found[channel, y, x] - mean) < 1e-3


def test_small_images_are_blurred_only_where_asked_for():
    cfg = {"size": BLUR_FROM - 1, "mean": MEAN, "std": STD}
    assert views_transform(cfg)._blur == 0 and views_transform(cfg | {"size": BLUR_FROM})._blur == 0.5
    assert views_transform(cfg, Augmentations(blur=0.3))._blur == 0.3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_views_of_images_without_captions(tmp_path, workers):
    tars = write_shards(tmp_path / "tars", 2, 8, no_caption=[(0, 1), (1, 1)], size=20)
    source = index_sources(tars, tmp_path / "index", caption_key=NO_CAPTIONS)
    options = {"seed": 3, "stage": 0, "transform": ViewsTransform((16, 16), MEAN, STD)}
    whole = list(GlobalBatchLoader(source, batch_size=8, workers=workers, **options))
    assert [batch.images.shape for batch in whole] == [(8, 2, 3, 16, 16)] * 2
    assert all(batch.texts.shape == (8, 0) for batch in whole)
    assert len({key for batch in whole for key in batch.keys}) == 16
    parts = [
        batch
        for rank in range(2)
        for batch in GlobalBatchLoader(source, batch_size=2, accum_freq=2, rank=rank, world_size=2, **options)
    ]
    by_key = {key: image for batch in parts for key, image in zip(batch.keys, batch.images, strict=True)}
    for batch in whole:
        for key, image in zip(batch.keys, batch.images, strict=True):
            assert torch.equal(by_key[key], image)
    normalize = GlobalBatchLoader(source, batch_size=8, **options).normalize
    for view in range(2):
        assert torch.equal(normalize(whole[0].images)[:, view], normalize(whole[0].images[:, view]))
