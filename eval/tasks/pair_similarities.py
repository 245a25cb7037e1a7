"""Two images against two texts: the similarities of every pair, and which image each text picks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class PairSimilarities:
    """Similarities of n pairs: text_image [n, 2 texts, 2 images]; images and texts [n], inside the pairs."""

    text_image: np.ndarray
    images: np.ndarray
    texts: np.ndarray

    @property
    def choices(self) -> np.ndarray:
        """int [n, 2]: the image that each text picks; a tie goes to the second, as in MMVP's official script."""
        return (self.text_image[:, :, 1] >= self.text_image[:, :, 0]).astype(np.int64)

    @property
    def correct(self) -> np.ndarray:
        """bool [n, 2]: whether each text picks its own image."""
        return self.choices == np.array([0, 1])

    @property
    def pair_correct(self) -> np.ndarray:
        """float64 [n]: 1 where both texts pick their own image, else 0."""
        return (self.correct[:, 0] & self.correct[:, 1]).astype(np.float64)

    @property
    def same_image(self) -> np.ndarray:
        """bool [n]: whether both texts pick the same image."""
        return self.choices[:, 0] == self.choices[:, 1]


def pair_similarities(image_embeddings: Tensor, text_embeddings: Tensor) -> PairSimilarities:
    """From unit embeddings [2n, D], the two of a pair side by side."""
    images, texts = (each.float().cpu().reshape(-1, 2, each.shape[-1]) for each in (image_embeddings, text_embeddings))
    return PairSimilarities(
        text_image=torch.einsum("ntd,nid->nti", texts, images).numpy(),
        images=(images[:, 0] * images[:, 1]).sum(-1).numpy(),
        texts=(texts[:, 0] * texts[:, 1]).sum(-1).numpy(),
    )


def mean_of_groups(values: np.ndarray, groups: Sequence[str]) -> dict[str, float]:
    """Mean of `values` [n] in every group, groups in order of first appearance."""
    names = list(dict.fromkeys(groups))
    labels = np.array([names.index(group) for group in groups])
    return {name: float(values[labels == number].mean()) for number, name in enumerate(names)}
