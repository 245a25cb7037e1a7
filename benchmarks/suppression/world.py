"""Generated images, captions and evaluation sets, as tensors in memory."""

from dataclasses import dataclass

import numpy as np
import open_clip
import torch
from torch import Tensor

from benchmarks.study import pixels
from benchmarks.study.groups import FIT, is_apart
from benchmarks.suppression import settings
from benchmarks.suppression.settings import MODEL
from demo.captions import write_captions
from demo.features import COUNTS, FEATURES, NAMES
from demo.render import render
from mcl_clip import seeds

TRAIN, PAIRS, TEST, PROBE = range(4)


@dataclass(frozen=True)
class Samples:
    """images float32 [N, 3, 32, 32], normalised; values int [N, F], the truth about every feature."""

    images: Tensor
    values: np.ndarray


@dataclass(frozen=True)
class PairSet:
    """Pairs that differ in one feature: images of [2n], side by side, and which of `texts` describes each."""

    images: Tensor
    statements: np.ndarray


@dataclass(frozen=True)
class World:
    """Token ids are int64 [N, context]; `prompts[f]` [values of f, context] names each value alone.

    fit: samples whose captions were set apart from training, as whole groups.
    """

    train: Samples
    tokens: Tensor
    captions: list[str]
    fit: Samples
    fit_tokens: Tensor
    fit_captions: list[str]
    probe: Samples
    test: Samples
    pairs: list[PairSet]
    prompts: list[Tensor]

    def __len__(self) -> int:
        return len(self.captions)


def make_world(shape: settings.World, seed: int) -> World:
    """Training data and evaluation data of one seed; these two and all parts are drawn independently."""
    tokenizer = open_clip.get_tokenizer(MODEL)
    rng = seeds.generator(seed, TRAIN)
    values = draw(shape.images, rng)
    captions = write_captions(values, shape.mentions(), rng)
    images = normalized(render(values, rng))
    apart = np.array([is_apart(caption, shape.fit_share, seed, FIT) for caption in captions])
    parts = []
    for chosen in (~apart, apart):
        said = [caption for caption, here in zip(captions, chosen.tolist(), strict=True) if here]
        parts.append((Samples(images[torch.from_numpy(chosen)], values[chosen]), tokenizer(said), said))
    (train, tokens, said), (fit, fit_tokens, fit_said) = parts
    return World(
        train=train,
        tokens=tokens,
        captions=said,
        fit=fit,
        fit_tokens=fit_tokens,
        fit_captions=fit_said,
        probe=samples(shape.test_images, seed, PROBE),
        test=samples(shape.test_images, seed, TEST),
        pairs=[pair_set(shape.pairs, number, seed) for number in range(len(FEATURES))],
        prompts=[tokenizer([f"a photo of {phrase}" for phrase in feature.phrases]) for feature in FEATURES],
    )


def samples(count: int, seed: int, part: int) -> Samples:
    """Images with every feature drawn independently."""
    rng = seeds.generator(seed, part)
    values = draw(count, rng)
    return Samples(normalized(render(values, rng)), values)


def pair_set(count: int, number: int, seed: int) -> PairSet:
    """`count` pairs that differ in feature `number` and in noise."""
    rng = seeds.generator(seed, PAIRS, number)
    first = draw(count, rng)
    second = first.copy()
    second[:, number] = (first[:, number] + rng.integers(1, COUNTS[number], count)) % COUNTS[number]
    values = np.stack((first, second), 1).reshape(-1, len(FEATURES))
    return PairSet(normalized(render(values, rng)), values[:, number])


def draw(count: int, rng: np.random.Generator) -> np.ndarray:
    """Value indices int64 [count, F], every feature independent and uniform."""
    return np.stack([rng.integers(0, values, count) for values in COUNTS], 1)


def labels_alike(values: np.ndarray, but: str) -> list[str]:
    """Labels under which samples agree in all features but one."""
    kept = [index for index, name in enumerate(NAMES) if name != but]
    return ["-".join(map(str, row)) for row in values[:, kept].tolist()]


def normalized(images: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] to open_clip's float input [N, 3, H, W]."""
    return pixels.normalized(torch.from_numpy(images).permute(0, 3, 1, 2))
