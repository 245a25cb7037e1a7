"""Two studies: which artist and seeds are for choosing, what is tried there, and what was chosen."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks.emoji.packages import ARTISTS
from benchmarks.study import settings as study
from benchmarks.study.models import Arm, Model
from benchmarks.study.settings import BASE, ENSEMBLE, HARD, LONG, MCL, SHUFFLED, SNAPSHOTS, Settings, at_rates

CHOOSING_ARTIST = "twemoji"
CHOOSING_SEEDS = (100, 101, 102)
CONFIRMING_ARTISTS = tuple(artist for artist in ARTISTS if artist != CHOOSING_ARTIST)
CONFIRMING_SEEDS = (1, 2, 3)

TRIED_ARMS = (BASE, LONG, MCL)
WIDE = "one tower as dear as two"
RATE_OF = {**study.RATE_OF, HARD: "hard_lr", WIDE: "wide_lr"}


@dataclass(frozen=True, kw_only=True)
class ScratchSettings(Settings):
    """Two small towers from random weights."""

    wide_lr: float = 1e-3

    def arms(self) -> dict[str, Arm]:
        """With a model that costs at inference what two fused stages do; `epochs` passes are two shares of compute."""
        wide = replace(self.independent(self.wide_lr), wide=True)
        return super().arms() | {WIDE: Arm(WIDE, (wide,))}


@dataclass(frozen=True, kw_only=True)
class RealSettings(Settings):
    """Two pretrained towers, of which projections are trained first, `projection_epochs` beside the shares of compute;
    then the last blocks of the image tower too, and in further stages all of the text tower stays as it is.
    """

    projection_epochs: int = 2
    projection_lr: float = 1e-3

    def independent(self, lr: float, draw: int = 0, shares: int = 1) -> Model:
        """From projections of its own."""
        recipe = replace(self.recipe(self.projection_lr), epochs=self.projection_epochs)
        start = Model(recipe=recipe, draw=draw, projections=True)
        return replace(super().independent(lr, draw, shares), start=start)

    def further(self, lr: float, **of: Any) -> tuple[Model, ...]:
        """With the text tower locked."""
        return super().further(lr, locked=True, **of)


@dataclass(frozen=True)
class Study:
    """Settings that are tried on the choosing artist, which stay with their results.

    Every try runs on the first choosing seed; `rule` is the one that was taken, which runs on all, and whose controls
    and MCL have run at several `rates`, these and other arms at `more`. chosen: set, and committed, before the
    confirming artists are looked at.
    """

    settings: Settings
    tries: dict[str, dict[str, Any]]
    rule: str
    rates: tuple[float, ...]
    more: dict[str, tuple[float, ...]] = field(default_factory=dict)
    chosen: Settings | None = None

    def tried(self, name: str, one_tower: bool = False) -> dict[str, Arm]:
        """Arms of one try; `one_tower`: of MCL, and what makes one model of it or beside it."""
        settings = replace(self.settings, **self.tries[name])
        arms = settings.arms()
        return {MCL: arms[MCL]} | settings.one_tower() if one_tower else {arm: arms[arm] for arm in TRIED_ARMS}

    def rated(self) -> dict[str, dict[float, Arm]]:
        """{arm: {rate: that of the rule at this rate, of its further stages or of all of it}}."""
        settings = replace(self.settings, **self.tries[self.rule])
        found = at_rates(settings, study.RATE_OF, self.rates)
        for name, rates in self.more.items():
            found[name] = found.get(name, {}) | at_rates(settings, {name: RATE_OF[name]}, rates)[name]
        return found

    def choosing(self) -> Iterator[tuple[int, list[Arm]]]:
        """Arms to score on the choosing artist, by seed."""
        first, *others = CHOOSING_SEEDS
        yield first, [arm for name in self.tries for arm in self.tried(name).values()]
        yield first, [arm for by_rate in self.rated().values() for arm in by_rate.values()]
        for seed in others:
            yield seed, list(self.tried(self.rule).values())


def rates(lr: float) -> dict[str, float]:
    """One rate for all arms that a try has."""
    return {"lr": lr, "long_lr": lr, "mcl_lr": lr}


FAST: dict[str, Any] = {"warmup": 50, "shift": 2, **rates(3e-3)}
TWO: dict[str, Any] = {**FAST, "stages": 1, "epochs": 12}
SCRATCH_TRIES: dict[str, dict[str, Any]] = {
    "mean of weights, moved pictures": {"warmup": 200, "average": 0.998, "shift": 2},
    "moved pictures, 3 times the rate": FAST,
    "moved pictures, 3 times the rate, batch 128": {**FAST, "batch": 128, "min_segment": 16},
    "two stages of the same compute": TWO,
    "two stages, half ordinary negatives": {**TWO, "ordinary": 0.5},
    "two stages, K = 64": {**TWO, "clusters": 64},
    "two stages, K = 4": {**TWO, "clusters": 4},
    "two stages, K = 4, half ordinary negatives": {**TWO, "clusters": 4, "ordinary": 0.5},
    "two stages, clusters of texts": {**TWO, "clustered": "texts"},
    "two stages, half ordinary negatives, 4 times the epochs": {
        **TWO,
        "ordinary": 0.5,
        "epochs": 48,
        "long_lr": 1.5e-3,
    },
}
HALF_ORDINARY: dict[str, Any] = {**rates(1e-3), "ordinary": 0.5}
FASTER: dict[str, Any] = {**HALF_ORDINARY, **rates(3e-3)}
REAL: dict[str, Any] = {"epochs": 2, "stages": 1, "warmup": 20}
SHORT: dict[str, Any] = {"epochs": 1, "batch": 128, "min_segment": 16}
REAL_TRIES: dict[str, dict[str, Any]] = {
    "a tenth of the rate": rates(1e-4),
    "three tenths of the rate": rates(3e-4),
    "the whole rate": rates(1e-3),
    "the whole rate, half ordinary negatives": HALF_ORDINARY,
    "the whole rate, half ordinary negatives, stage 0 a quarter": {**HALF_ORDINARY, "first_epochs": 1},
    "the whole rate, half ordinary negatives, stage 0 three quarters": {**HALF_ORDINARY, "first_epochs": 3},
    "the whole rate, half ordinary negatives, K = 4": {**HALF_ORDINARY, "clusters": 4},
    "the whole rate, half ordinary negatives, K = 64": {**HALF_ORDINARY, "clusters": 64},
    "the whole rate, half ordinary negatives, clusters of texts": {**HALF_ORDINARY, "clustered": "texts"},
    "3 times the rate, half ordinary negatives": FASTER,
    "one epoch, batch 128": {**SHORT, **rates(1e-3)},
    "one epoch, batch 128, 3 times the rate": {**SHORT, **rates(3e-3)},
}
FROM_SCRATCH, REAL_TOWERS = "from scratch", "real towers"
STUDIES = {
    FROM_SCRATCH: Study(
        ScratchSettings(),
        SCRATCH_TRIES,
        rule="two stages, half ordinary negatives",
        rates=(7.5e-4, 1.5e-3, 3e-3, 6e-3),
        more={
            SNAPSHOTS: (1.2e-2,),
            SHUFFLED: (1.2e-2, 2.4e-2),
            MCL: (1.2e-2,),
            HARD: (1.5e-3, 3e-3, 6e-3),
            WIDE: (7.5e-4, 1.5e-3, 3e-3),
        },
        chosen=ScratchSettings(
            **SCRATCH_TRIES["two stages, half ordinary negatives"]
            | {"long_lr": 1.5e-3, "ensemble_lr": 1.5e-3, "snapshot_lr": 6e-3, "shuffled_lr": 1.2e-2, "hard_lr": 3e-3}
        ),
    ),
    REAL_TOWERS: Study(
        RealSettings(**REAL),
        REAL_TRIES,
        rule="3 times the rate, half ordinary negatives",
        rates=(1e-3, 3e-3),
        more={
            LONG: (3e-4, 6e-3, 1.2e-2),
            ENSEMBLE: (6e-3, 1.2e-2),
            SNAPSHOTS: (3e-4,),
            SHUFFLED: (6e-3,),
            MCL: (3e-4,),
        },
        chosen=RealSettings(
            **REAL
            | FASTER
            | {"long_lr": 6e-3, "ensemble_lr": 6e-3, "snapshot_lr": 1e-3, "shuffled_lr": 3e-3}
            | {"mcl_lr": 1e-3, "hard_lr": 1e-3}
        ),
    ),
}


def place_name(study: str, artist: str) -> str:
    """What the results of a study on one artist stand under."""
    return artist if study == FROM_SCRATCH else f"{artist}, {study}"
