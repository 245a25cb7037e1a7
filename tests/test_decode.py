"""The fast path against Pillow and open_clip's own transforms."""

import io
import random
import subprocess

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from mcl_clip.loading.augment import (
    WORDS,
    EvalTransform,
    PilTransform,
    TrainTransform,
    crop_box,
    eval_transform,
    resize,
    train_transform,
)
from mcl_clip.loading.decode import DecodeError, decode_pil, decode_rgb
from mcl_clip.loading.normalize import Normalize
from mcl_clip.openclip.transforms import (
    OPENAI_DATASET_MEAN,
    OPENAI_DATASET_STD,
    AugmentationCfg,
    PreprocessCfg,
    image_transform_v2,
)


def picture(height, width, seed=0):
    """Smooth colour with texture: something for an interpolation to disagree on."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 80 * np.sin(x / rng.uniform(2, 30) + y / rng.uniform(2, 30) + c) for c in range(3)]
    noisy = np.stack(waves, -1) + rng.normal(0, 15, (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def encoded(image, format="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def words(seed):
    return np.random.default_rng(seed).integers(0, 2**64, WORDS, dtype=np.uint64, endpoint=False)


def share_beyond_one_level(first, second):
    return (first.int() - second.int()).abs().gt(1).float().mean().item()


def pixels(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("data", "fast"),
    [
        (encoded(picture(60, 80), quality=80), True),
        (encoded(picture(60, 80), quality=80, progressive=True, subsampling=0), True),
        (encoded(picture(61, 83).convert("L")), True),
        (encoded(picture(60, 80), "PNG"), True),
        (encoded(picture(60, 80).convert("L"), "PNG"), True),
        (encoded(picture(60, 80).convert("CMYK")), False),
        (encoded(picture(60, 80).convert("RGBA"), "PNG"), False),
        (encoded(picture(60, 80).convert("P"), "PNG", transparency=3), False),
        (encoded(picture(60, 80).convert("L"), "PNG", transparency=127), False),
        (encoded(picture(60, 80), "PNG", transparency=(127, 127, 127)), False),
        (encoded(Image.fromarray(np.arange(4800, dtype=np.uint16).reshape(60, 80)), "PNG"), False),
        (encoded(picture(60, 80), "WEBP"), False),
    ],
    ids=[
        "jpeg",
        "progressive",
        "gray-jpeg",
        "png",
        "gray-png",
        "cmyk",
        "alpha",
        "palette",
        "gray-tRNS",
        "rgb-tRNS",
        "16-bit",
        "webp",
    ],
)
def test_decoded_pixels_are_pillows(data, fast):
    image, was_fast = decode_rgb(data)
    assert was_fast == fast
    assert image.dtype == torch.uint8
    assert torch.equal(image, pixels(decode_pil(data)))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("decode", [decode_rgb, decode_pil])
def test_what_cannot_be_decoded_is_said(format, decode):
    data = encoded(picture(60, 80), format)
    for broken in (b"", b"not an image", data[:20], data[: len(data) // 2]):
        with pytest.raises(DecodeError):
            decode(broken)


def test_a_program_in_the_place_of_an_image_is_not_run(monkeypatch):
    data = encoded(picture(16, 16), "EPS")  # PostScript, for which Pillow would start an interpreter
    monkeypatch.setattr(subprocess, "Popen", lambda *command, **options: pytest.fail(f"{command} was started"))
    for decode in (decode_rgb, decode_pil):
        with pytest.raises(DecodeError):
            decode(data)


def test_an_image_of_absurd_size_is_refused_before_memory_is_taken():
    data = bytearray(encoded(picture(16, 16)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(DecodeError, match="Bomb"):
        decode_rgb(bytes(data))


@given(st.integers(20, 200), st.integers(20, 200), st.integers(0, 10**6))
def test_same_crop_same_pixels_as_pillow(height, width, seed):
    image = picture(height, width, seed)
    box = crop_box(height, width, (0.3, 1.0), (3 / 4, 4 / 3), np.random.default_rng(seed).random(WORDS).tolist())
    oracle = TF.resized_crop(image, *box, [64, 64], InterpolationMode.BICUBIC)
    top, left, h, w = box
    ours = resize(pixels(image)[:, top : top + h, left : left + w], (64, 64), "bicubic")
    assert share_beyond_one_level(ours, pixels(oracle)) <= 1e-4


def test_crops_are_distributed_like_torchvisions():
    height, width, count = 120, 200, 4000
    numbers = np.random.default_rng(0).random((count, WORDS))
    ours = np.array([crop_box(height, width, (0.4, 1.0), (3 / 4, 4 / 3), row.tolist()) for row in numbers])
    image = torch.zeros(3, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = np.array([RandomResizedCrop.get_params(image, [0.4, 1.0], [3 / 4, 4 / 3]) for _ in range(count)])
    spread = theirs.std(0) / count**0.5
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 5 * spread + 1e-9).all()
    assert (np.abs(ours.std(0) - theirs.std(0)) < 5 * spread + 1e-9).all()


@given(st.integers(1, 40), st.integers(1, 400), st.integers(0, 10**6))
def test_boxes_stay_inside(height, width, seed):
    box = crop_box(height, width, (0.9, 1.0), (3 / 4, 4 / 3), np.random.default_rng(seed).random(WORDS).tolist())
    top, left, h, w = box
    assert 0 <= top <= height - h < height
    assert 0 <= left <= width - w < width


@pytest.mark.parametrize("shape", [(100, 150), (150, 100), (64, 64), (40, 30), (211, 64)])
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [64, (48, 64)])
def test_evaluation_transform_is_open_clips(shape, mode, interpolation, size):
    cfg = PreprocessCfg(size=size, resize_mode=mode, interpolation=interpolation, fill_color=7)
    data = encoded(picture(*shape), "PNG")
    oracle = image_transform_v2(cfg, is_train=False)(decode_pil(data))
    image, _ = eval_transform(cfg)(data)
    ours = Normalize(cfg.mean, cfg.std)(image[None])[0]
    assert ours.shape == oracle.shape
    levels = 1.01 / 255 / torch.tensor(cfg.std).view(3, 1, 1)
    assert ((ours - oracle).abs() > levels).float().mean() <= 1e-4


def test_training_transform_is_pure_in_its_words():
    data = encoded(picture(90, 120))
    transform = train_transform(PreprocessCfg(size=32), {"scale": (0.4, 1.0)})
    assert isinstance(transform, TrainTransform)
    first, again, other = (
        transform(data, words(1))[0],
        transform(data, words(1))[0],
        transform(data, words(2))[0],
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (3, 32, 32)


@pytest.mark.parametrize(
    "aug",
    [
        {"gray_scale_prob": 0.5},
        {"color_jitter": (0.4, 0.4, 0.4, 0.1), "color_jitter_prob": 0.8},
        AugmentationCfg(use_timm=True, re_prob=0.5),
    ],
)
def test_other_augmentations_take_open_clips_transform_with_the_samples_own_seed(aug):
    data = encoded(picture(90, 120))
    transform = train_transform(PreprocessCfg(size=32), aug)
    assert isinstance(transform, PilTransform)
    states = random.getstate(), np.random.get_state()[1].copy(), torch.random.get_rng_state()
    draws = [transform(data, words(seed))[0] for seed in (1, 1, 2, 3, 4)]
    assert torch.equal(draws[0], draws[1])
    assert len({draw.sum().item() for draw in draws}) > 1
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.random.get_rng_state(), states[2])


def test_normalisation_is_totensor_and_normalize():
    image = picture(20, 30)
    oracle = TF.normalize(TF.to_tensor(image), OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    for channels_last in (False, True):
        normalise = Normalize(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, channels_last=channels_last)
        ours = normalise(pixels(image)[None])
        assert ours.is_contiguous(memory_format=normalise.format)
        assert torch.equal(ours, normalise(pixels(image)[None].contiguous()))  # planes instead of interleaved
        torch.testing.assert_close(ours[0], oracle, rtol=1e-6, atol=2e-6)
        fused = normalise.fused(pixels(image)[None])  # what CUDA runs
        assert fused.is_contiguous(memory_format=normalise.format)
        torch.testing.assert_close(fused, ours, rtol=1e-6, atol=1e-6)
        halves = Normalize(OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, torch.bfloat16, channels_last)
        torch.testing.assert_close(
            halves.fused(pixels(image)[None]), halves(pixels(image)[None]), rtol=0.008, atol=1e-6
        )


def test_a_transform_is_a_plain_value():
    cfg = {
        "size": 32,
        "mean": (0.5,) * 3,
        "std": (0.2,) * 3,
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }
    assert eval_transform(cfg) == EvalTransform((32, 32), (0.5,) * 3, (0.2,) * 3, "squash", "bilinear")
