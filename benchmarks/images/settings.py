"""The generated pictures, what was tried on seeds of its own, what was chosen there, and all arms of the study."""

from dataclasses import dataclass, replace
from typing import Any

from benchmarks.study import settings as study
from benchmarks.study.models import Arm, Model
from benchmarks.study.settings import BASE, CONTROLS, FROM_BASE, MCL
from mcl_clip.loading.views import Augmentations

CHOOSING_SEEDS = (100,)
SEEDS = (1, 2, 3, 4, 5)
IFM = "implicit feature modification"
EPSILON = 0.1
ARTIST = "twemoji"  # held out of the emoji; the one that benchmarks.emoji chooses on, which makes no claim
PLAIN = Augmentations(scale=(0.3, 1.0), jitter=0.0, gray=0.0)
JITTERED = replace(PLAIN, jitter=0.8, gray=0.2)


@dataclass(frozen=True, kw_only=True)
class World:
    """`images` to train on. contrast: how much darker the dark parts of a texture are."""

    images: int = 1_024
    probe_images: int = 1_000
    test_images: int = 1_500
    contrast: float = 0.65


@dataclass(frozen=True, kw_only=True)
class ViewsModel(Model):
    """A model of two views. epsilon: of implicit feature modification."""

    augmentations: Augmentations = PLAIN
    temperature: float = 0.5
    epsilon: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Settings(study.Settings):
    """Of the study. clustered: images (their features) or projections."""

    epochs: int = 32
    batch: int = 64
    lr: float = 6e-3
    wd: float = 1e-4
    warmup: int = 10
    clusters: int = 10
    clustered: str = "projections"
    min_segment: int = 8
    augmentations: Augmentations = PLAIN
    temperature: float = 0.5
    epsilon: float = 0.0
    long_lr: float = 6e-3
    ensemble_lr: float = 6e-3
    snapshot_lr: float = 6e-3
    shuffled_lr: float = 6e-3
    ifm_lr: float = 6e-3
    mcl_lr: float = 6e-3

    def independent(self, lr: float, draw: int = 0, shares: int = 1) -> ViewsModel:
        """Of two views."""
        return ViewsModel(
            recipe=self.recipe(lr, shares),
            draw=draw,
            augmentations=self.augmentations,
            temperature=self.temperature,
            epsilon=self.epsilon,
        )

    def arms(self) -> dict[str, Arm]:
        """All arms by name, in the order of the report."""
        arms = super().arms()
        arms[IFM] = Arm(IFM, replace(self, lr=self.ifm_lr, epsilon=EPSILON).further(self.ifm_lr))
        return {name: arms[name] for name in (BASE, *CONTROLS, IFM, MCL, FROM_BASE) if name in arms}


# Every arm's own rate, and the rule of MCL, tried on the choosing seeds; all tries stay, with their results.
RATES = (1.5e-3, 3e-3, 6e-3, 1.2e-2, 2.4e-2)
RATE_OF = {**study.RATE_OF, IFM: "ifm_lr"}
RULES: dict[str, dict[str, Any]] = {
    "as the study": {},
    "K = 5": {"clusters": 5},
    "clusters of features": {"clustered": "images"},
}
SHORT: dict[str, Any] = {"epochs": 8, "clusters": 5, "clustered": "images"}  # tried first
CHOSEN = Settings(clustered="images", long_lr=3e-3, snapshot_lr=1.2e-2, shuffled_lr=3e-3, mcl_lr=1.2e-2)


def tries() -> dict[str, dict[float, Arm]]:
    """{arm: {rate: the arm at that rate, all else as it was before}}."""
    return study.at_rates(Settings(), RATE_OF, RATES)


def rules() -> dict[str, Arm]:
    """{what is changed: MCL so, all else as it was before}."""
    return {name: replace(Settings(), **changed).arms()[MCL] for name, changed in RULES.items()}


def short() -> list[Arm]:
    """Arms of a quarter of the compute, with the rule and the rate that were tried first."""
    return list(replace(Settings(), **SHORT).arms().values())[:-1]


QUICK_WORLD: dict[str, Any] = {"images": 256, "probe_images": 200, "test_images": 200}
QUICK: dict[str, Any] = {"epochs": 1, "batch": 64, "clusters": 3, "warmup": 1}
