"""What a study may vary, in one frozen value."""

from dataclasses import asdict, dataclass
from typing import Any

import mcl_clip.models  # noqa: F401  registers the tower
from benchmarks.study.training import Recipe
from demo.features import FEATURES, NAMES
from mcl_clip.artifacts import sha256_json
from mcl_clip.openclip.configs import get_model_config

MODEL = "mcl-tiny-conv"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One share of compute is `epochs` passes over `images` samples.

    mention: probability that a caption names a feature, for `hard` (the named features) and for all others.
    last_labels_only: cluster by the last stage alone, forgetting the earlier ones (the reference's mistake).
    """

    images: int = 12_000
    pairs: int = 300
    test_images: int = 2_000
    epochs: int = 8
    batch: int = 256
    lr: float = 1e-3
    wd: float = 0.1
    warmup: int = 20
    clusters: int = 16
    stages: int = 2
    embed_dim: int = 64
    leftovers: str = "pack"
    min_segment: int = 32
    mention: float = 0.9
    mention_hard: float = 0.6
    hard: tuple[str, ...] = ("texture",)
    last_labels_only: bool = False

    def mentions(self) -> dict[str, float]:
        """Probability by feature."""
        return {name: self.mention_hard if name in self.hard else self.mention for name in NAMES}

    def recipe(self, *, shares: int = 1, min_segment: int | None = None) -> Recipe:
        """Of one model, for `shares` shares of compute."""
        return Recipe(
            epochs=self.epochs * shares,
            batch=self.batch,
            lr=self.lr,
            wd=self.wd,
            warmup=self.warmup,
            leftovers=self.leftovers,
            min_segment=min_segment or self.min_segment,
        )

    def record(self) -> dict[str, Any]:
        """Plain values, for the results."""
        return asdict(self)

    @property
    def tag(self) -> str:
        """A short name that changes with every field, with the model and with the features."""
        features = [asdict(feature) for feature in FEATURES]
        return sha256_json([self.record(), get_model_config(MODEL), features])[:10]


QUICK: dict[str, Any] = {
    "images": 1024,
    "pairs": 20,
    "test_images": 120,
    "epochs": 1,
    "batch": 128,
    "clusters": 3,
    "warmup": 2,
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "as the study": {},
    "K = 4": {"clusters": 4},
    "K = 8": {"clusters": 8},
    "K = 32": {"clusters": 32},
    "three further stages": {"stages": 3},
    "labels of the last stage alone": {"last_labels_only": True},
    # With K = 16 no pseudo-label of the second further stage fills a global batch.
    "K = 4, leftovers dropped": {"clusters": 4, "leftovers": "drop"},
    "batch 128": {"batch": 128},
    "batch 512": {"batch": 512},
    "every feature always in the caption": {"mention": 1.0, "mention_hard": 1.0},
    "texture in 90 % of the captions": {"mention_hard": 0.9},
    "texture in 40 % of the captions": {"mention_hard": 0.4},
    "embedding width 16": {"embed_dim": 16},
    "embedding width 128": {"embed_dim": 128},
}
