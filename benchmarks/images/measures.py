"""What a classifier reads of every feature from an arm's models, fused."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.images.tower import Backbone
from benchmarks.images.world import UNKNOWN, World
from benchmarks.study.pixels import normalized
from benchmarks.study.place import CHUNK
from eval.tasks.knn import predict
from eval.tasks.linear_probe import probe
from mcl_clip.fusion.combine import fuse_embeddings

PROBE, KNN, PROJECTED = MEASURES = ("probe", "knn", "projected")
NEIGHBOURS = 20
PROJECTIONS = "_projections"


@torch.inference_mode()
def train_embeddings(model: Backbone, world: World) -> dict[str, Tensor]:
    """Features and projections of the training set."""
    return _embedded(model, "train", world.train)


@torch.inference_mode()
def embeddings(model: Backbone, world: World) -> dict[str, Tensor]:
    """Features and projections of what classifiers are fitted on and scored on."""
    return _embedded(model, "probe", world.probe.images) | _embedded(model, "test", world.test.images)


def score(
    parts: Sequence[dict[str, Tensor]], world: World, fusion: str, weights: Sequence[float] | None = None
) -> dict[str, float]:
    """Accuracies of fused models by `MEASURE FEATURE`, and their mean as `MEASURE mean`.

    probe: the linear probe on features. projected: the same on projections. knn: 20 neighbours by features.
    """
    found: dict[str, float] = {}
    for suffix in ("", PROJECTIONS):
        known, asked = (
            fuse_embeddings([part[split + suffix] for part in parts], fusion, weights, normalize=True)
            for split in ("probe", "test")
        )
        for name in world.probe.labels:
            (fitted, fitted_labels), (tested, truth) = (
                _with_label(each, split.labels[name]) for each, split in ((known, world.probe), (asked, world.test))
            )
            predicted = {PROJECTED if suffix else PROBE: probe(fitted, fitted_labels, tested)[0]}
            if not suffix:
                predicted[KNN] = predict(fitted, fitted_labels, tested, (NEIGHBOURS,))[NEIGHBOURS]
            found |= {f"{measure} {name}": float((each == truth).mean()) for measure, each in predicted.items()}
    means = {
        f"{measure} mean": float(np.mean([found[f"{measure} {name}"] for name in world.probe.labels]))
        for measure in MEASURES
    }
    return found | means


def _embedded(model: Backbone, name: str, images: Tensor) -> dict[str, Tensor]:
    features = torch.cat([model(normalized(chunk)) for chunk in images.split(CHUNK)])
    return {name: features, name + PROJECTIONS: model.projection(features)}


def _with_label(embedded: Tensor, labels: np.ndarray) -> tuple[Tensor, np.ndarray]:
    known = labels != UNKNOWN
    return embedded[torch.from_numpy(known)], labels[known]
