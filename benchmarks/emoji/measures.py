"""What an arm's models know of an artist that they have never seen."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.emoji.world import Scored, World
from benchmarks.study.captioned import embed_texts
from benchmarks.study.place import CHUNK, embed_images
from eval.tasks.pair_similarities import mean_of_groups, pair_similarities
from mcl_clip.fusion.combine import fuse_embeddings

See = Callable[[Tensor], Tensor]


@torch.inference_mode()
def train_embeddings(model: Any, world: World, see: See) -> dict[str, Tensor]:
    """Raw embeddings of the training set, as float16; `see` makes a model's input of what stands for images."""
    return {
        "train": _embed_images(model, world.train, see).half(),
        "train_texts": embed_texts(model, world.tokens).half(),
    }


@torch.inference_mode()
def embeddings(model: Any, world: World, see: See) -> dict[str, Tensor]:
    """Raw embeddings of everything that is fitted on or scored."""
    return {
        "fit": _embed_images(model, world.fit, see),
        "fit_texts": embed_texts(model, world.fit_tokens),
        "pairs": _embed_images(model, world.pairs, see),
        "pair_texts": embed_texts(model, world.pair_tokens),
        "classes": embed_texts(model, world.classes),
        "known": _embed_images(model, world.known.images, see),
        "unseen": _embed_images(model, world.unseen.images, see),
    }


def score(
    parts: Sequence[dict[str, Tensor]], world: World, fusion: str, weights: Sequence[float] | None = None
) -> dict[str, float]:
    """Fractions: `pairs TYPE` and their mean `pairs`; `known` and `unseen`, zero-shot accuracy among all captions of
    the artist; `retrieval`, the mean of how often an image of a known caption is first for its text.
    """
    names = ("pairs", "pair_texts", "classes", "known", "unseen")
    joined = {name: fuse_embeddings([part[name] for part in parts], fusion, weights, normalize=True) for name in names}
    correct = pair_similarities(joined["pairs"], joined["pair_texts"]).pair_correct
    by_type = mean_of_groups(correct, world.pair_types)
    found = {"pairs": float(np.mean(list(by_type.values())))}
    found |= {f"pairs {kind}": value for kind, value in by_type.items()}
    found["known"] = _accuracy(joined["known"], joined["classes"], world.known)
    found["unseen"] = _accuracy(joined["unseen"], joined["classes"], world.unseen)
    found["retrieval"] = _first_image(joined["known"], joined["classes"], world.known)
    return found


def _embed_images(model: Any, images: Tensor, see: See) -> Tensor:
    return torch.cat([embed_images(model, see(chunk)) for chunk in images.split(CHUNK)])


def _accuracy(images: Tensor, classes: Tensor, scored: Scored) -> float:
    return float(((images @ classes.T).argmax(1).numpy() == scored.classes).mean())


def _first_image(images: Tensor, classes: Tensor, scored: Scored) -> float:
    asked = np.unique(scored.classes)
    first = (classes[torch.from_numpy(asked)] @ images.T).argmax(1).numpy()
    return float((scored.classes[first] == asked).mean())
