"""The choices on every pair, as a scores file holds them beside the metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.data.mmvp import MMVPPair
from mcl_clip.errors import UserError


@dataclass(frozen=True)
class Choices:
    """What one row of a model picked. ids: of every pair; picked: int [n, 2], the image 0 or 1 of both texts."""

    name: str
    ids: list[tuple[int, int]]
    picked: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """bool [n, 2]: whether each text picks its own image."""
        return self.picked == np.array([0, 1])

    @property
    def pair_right(self) -> np.ndarray:
        """float64 [n]: 1 where both do, else 0."""
        return (self.right[:, 0] & self.right[:, 1]).astype(np.float64)


def as_words(pairs: Sequence[MMVPPair], picked: np.ndarray) -> dict[str, str]:
    """A word a pair; `pairs`: its first id, the second is the next; `choices`: the image, 1 or 2, of both texts."""
    return {
        "pairs": " ".join(str(pair.ids[0]) for pair in pairs),
        "choices": " ".join(f"{first + 1}{second + 1}" for first, second in picked.tolist()),
    }


def from_result(result: dict[str, Any], name: str, where: str) -> Choices:
    """The choices in a result of a scores file; `UserError` when it holds none."""
    try:
        ids = [(int(word), int(word) + 1) for word in result["pairs"].split()]
        picked = np.array([[int(digit) - 1 for digit in word] for word in result["choices"].split()])
        if picked.shape != (len(ids), 2) or not ids or not np.isin(picked, (0, 1)).all():
            raise ValueError("choices")
    except (KeyError, ValueError, AttributeError):
        raise UserError(
            f"{where} holds no choices on pairs; write it with mcl-mmvp --output of this version, or mcl-eval"
        ) from None
    return Choices(name, ids, picked)
