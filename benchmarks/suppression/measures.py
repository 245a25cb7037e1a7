"""What the models of an arm know: each feature's pair accuracy, zero-shot accuracy and linear probe."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifierCV
from torch import Tensor

from benchmarks.suppression.trainer import embed
from benchmarks.suppression.world import World
from demo.features import NAMES
from eval.tasks.pair_similarities import pair_similarities
from mcl_clip.fusion.combine import fuse_embeddings

STRENGTHS = tuple(10.0 ** np.arange(-5, 2))
MEASURES = ("pairs", "zero_shot", "probe")


@torch.inference_mode()
def embeddings(model, world: World) -> dict[str, Tensor]:
    """Raw embeddings of all evaluation data."""
    found = {"probe": embed(model, world.probe.images), "test": embed(model, world.test.images)}
    for number in range(len(NAMES)):
        found[f"pairs_{number}"] = embed(model, world.pairs[number].images)
        found[f"prompts_{number}"] = model.encode_text(world.prompts[number])
    return found


def score(
    parts: Sequence[dict[str, Tensor]], world: World, fusion: str, weights: Sequence[float] | None = None
) -> dict:
    """{measure: {feature: fraction}} of fused models, with each measure's mean under "mean"."""
    joined = {
        name: fuse_embeddings([part[name] for part in parts], fusion, weights, normalize=True) for name in parts[0]
    }
    found: dict[str, dict[str, float]] = {measure: {} for measure in MEASURES}
    for number, name in enumerate(NAMES):
        prompts, pairs = joined[f"prompts_{number}"], world.pairs[number]
        correct = pair_similarities(joined[f"pairs_{number}"], prompts[pairs.statements]).correct
        found["pairs"][name] = float(correct.all(1).mean())
        chosen = (joined["test"] @ prompts.T).argmax(1).numpy()
        found["zero_shot"][name] = float((chosen == world.test.values[:, number]).mean())
        probe = RidgeClassifierCV(STRENGTHS).fit(joined["probe"].numpy(), world.probe.values[:, number])
        found["probe"][name] = float(probe.score(joined["test"].numpy(), world.test.values[:, number]))
    for values in found.values():
        values["mean"] = float(np.mean(list(values.values())))
    return found
