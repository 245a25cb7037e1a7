"""What the models of an arm know: each feature's pair accuracy, zero-shot accuracy and linear probe."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifierCV
from torch import Tensor

from benchmarks.study.captioned import embed_texts
from benchmarks.study.place import embed_images
from benchmarks.suppression.world import World
from demo.features import NAMES
from eval.tasks.pair_similarities import pair_similarities
from mcl_clip.fusion.combine import fuse_embeddings
from mcl_clip.openclip.models import CLIP

STRENGTHS = tuple(10.0 ** np.arange(-5, 2))
MEASURES = ("pairs", "zero_shot", "probe")


@torch.inference_mode()
def train_embeddings(model: CLIP, world: World) -> dict[str, Tensor]:
    """Raw embeddings of the training images."""
    return {"train": embed_images(model, world.train.images)}


@torch.inference_mode()
def embeddings(model: CLIP, world: World) -> dict[str, Tensor]:
    """Raw embeddings of what is fitted on and of all evaluation data."""
    found = {"fit": embed_images(model, world.fit.images), "fit_texts": embed_texts(model, world.fit_tokens)}
    found |= {"probe": embed_images(model, world.probe.images), "test": embed_images(model, world.test.images)}
    for number in range(len(NAMES)):
        found[f"pairs_{number}"] = embed_images(model, world.pairs[number].images)
        found[f"prompts_{number}"] = model.encode_text(world.prompts[number])
    return found


def score(
    parts: Sequence[dict[str, Tensor]], world: World, fusion: str, weights: Sequence[float] | None = None
) -> dict[str, float]:
    """Fractions of fused models: `MEASURE FEATURE`, and every measure's mean as `MEASURE mean`."""
    scored = {name for name in parts[0] if not name.startswith(("train", "fit"))}
    joined = {name: fuse_embeddings([part[name] for part in parts], fusion, weights, normalize=True) for name in scored}
    found = {}
    for number, name in enumerate(NAMES):
        prompts, pairs = joined[f"prompts_{number}"], world.pairs[number]
        correct = pair_similarities(joined[f"pairs_{number}"], prompts[pairs.statements]).correct
        found[f"pairs {name}"] = float(correct.all(1).mean())
        chosen = (joined["test"] @ prompts.T).argmax(1).numpy()
        found[f"zero_shot {name}"] = float((chosen == world.test.values[:, number]).mean())
        probe = RidgeClassifierCV(STRENGTHS).fit(joined["probe"].numpy(), world.probe.values[:, number])
        found[f"probe {name}"] = float(probe.score(joined["test"].numpy(), world.test.values[:, number]))
    means = {f"{measure} mean": np.mean([found[f"{measure} {name}"] for name in NAMES]) for measure in MEASURES}
    return found | {name: float(value) for name, value in means.items()}
