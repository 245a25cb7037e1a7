"""Pictures and their labels, as tensors in memory."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks.images import settings
from benchmarks.images.trifeature import FEATURES, render
from mcl_clip import seeds

TRAIN, PROBE, TEST = range(3)
UNKNOWN = -1


@dataclass(frozen=True)
class Labelled:
    """images uint8 [N, 3, H, W]; labels int64 [N] by feature, UNKNOWN where there is none."""

    images: Tensor
    labels: dict[str, np.ndarray]


@dataclass(frozen=True)
class World:
    """train: images uint8 [N, 3, H, W], without labels. Classifiers are fitted on `probe` and scored on `test`."""

    train: Tensor
    probe: Labelled
    test: Labelled

    def __len__(self) -> int:
        return len(self.train)


def make_world(shape: settings.World, seed: int) -> World:
    """Trifeature of one seed; the three parts are drawn independently."""
    train, probe, test = (
        _samples(count, shape.contrast, seed, part)
        for part, count in ((TRAIN, shape.images), (PROBE, shape.probe_images), (TEST, shape.test_images))
    )
    return World(train.images, probe, test)


def _samples(count: int, contrast: float, seed: int, part: int) -> Labelled:
    rng = seeds.generator(seed, part)
    values = np.stack([rng.integers(0, len(known), count) for known in FEATURES.values()], 1)
    images = torch.from_numpy(render(values, contrast, rng))
    return Labelled(images, {name: values[:, column] for column, name in enumerate(FEATURES)})
