"""Arms of equal compute: MCL, its controls and its relatives, from one set of numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.study.models import Arm, Model, Negatives, Teacher
from benchmarks.study.training import Recipe

BASE, LONG, ENSEMBLE, SNAPSHOTS, SHUFFLED, MCL = (
    "stage 0",
    "one long run",
    "ensemble",
    "snapshots",
    "shuffled labels",
    "MCL",
)
CONTROLS = (LONG, ENSEMBLE, SNAPSHOTS, SHUFFLED)
STUDENT, SOUP, LONGER = "student", "soup", "one long run, a share more"
HARD, FROM_BASE = "hard-negative NCE", "MCL from the base"
RATE_OF = {
    LONG: "long_lr",
    ENSEMBLE: "ensemble_lr",
    SNAPSHOTS: "snapshot_lr",
    SHUFFLED: "shuffled_lr",
    MCL: "mcl_lr",
}
STUDENT_DRAW = 20
FURTHER = 10  # added to the number of a further stage, its random numbers are not those of an independent model


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One share of compute is `epochs` passes; every arm but stage 0 has `stages` + 1 of them.

    lr: of stage 0; the others' own are rates of all of the long run and the ensemble, and of the further stages of the
    rest. first_epochs: of stage 0 where it has no full share; what it leaves goes to the stages after it, alike.
    shift, hardness: as of `Model`. clustered: what pseudo-labels are made of, images or texts. student_: of a
    further model that MCL teaches: shares of compute, share of the samples with ordinary negatives (the others' are
    those of MCL's last stage), whether it starts from the mean of MCL's weights, and as of `Teacher`.
    """

    epochs: int = 8
    stages: int = 2
    first_epochs: int | None = None
    batch: int = 256
    lr: float = 1e-3
    long_lr: float = 1e-3
    ensemble_lr: float = 1e-3
    snapshot_lr: float = 1e-3
    shuffled_lr: float = 1e-3
    mcl_lr: float = 1e-3
    hard_lr: float = 1e-3
    wd: float = 0.1
    warmup: int = 20
    average: float | None = None
    shift: int = 0
    mask_identical: bool = False
    clusters: int = 16
    clustered: str = "images"
    min_segment: int = 32
    ordinary: float = 0.0
    leftovers: str = "pack"
    last_labels_only: bool = False
    hardness: float = 0.5
    student_lr: float = 1e-3
    student_shares: int = 1
    student_ordinary: float = 0.5
    student_from_soup: bool = False
    student_contrastive: float = 0.0
    student_scale: float = 1.0

    def recipe(self, lr: float, shares: int = 1) -> Recipe:
        """Of one model on ordinary batches."""
        return Recipe(
            epochs=self.epochs * shares,
            batch=self.batch,
            lr=lr,
            wd=self.wd,
            warmup=self.warmup,
            average=self.average,
            mask_identical=self.mask_identical,
            leftovers=self.leftovers,
            min_segment=self.min_segment,
        )

    def independent(self, lr: float, draw: int = 0, shares: int = 1) -> Model:
        """A model on ordinary batches that shares nothing with one of another `draw`."""
        return Model(recipe=self.recipe(lr, shares), draw=draw, shift=self.shift)

    @property
    def base(self) -> Model:
        """Stage 0."""
        model = self.independent(self.lr)
        return replace(model, recipe=replace(model.recipe, epochs=self.first_epochs or self.epochs))

    @property
    def further_epochs(self) -> int:
        """Of every stage after it."""
        left, uneven = divmod(self.epochs * (self.stages + 1) - self.base.recipe.epochs, self.stages)
        if uneven:
            raise ValueError(f"{self.stages} stages cannot share what first_epochs={self.first_epochs} leaves")
        return left

    def further(
        self, lr: float, *, start: str = "previous", labels: bool = False, dealt: tuple[Model, ...] = (), **own: Any
    ) -> tuple[Model, ...]:
        """Stage 0 and the stages after it, from the "previous" one, the "base" or from "scratch".

        labels: negatives of pseudo-labels by all stages before. dealt: negatives of those of these models instead,
        dealt to the samples at random. own: fields of every further model.
        """
        models = [self.base]
        ordinary = self.ordinary if labels or dealt else 0.0
        for stage in range(1, self.stages + 1):
            seen = list(dealt[:stage] if dealt else models)
            if self.last_labels_only:
                seen = seen[-1:]
            negatives = Negatives(models=tuple(seen), clusters=self.clusters, of=self.clustered, shuffled=bool(dealt))
            model = replace(
                self.base,
                recipe=replace(self.recipe(lr), ordinary=ordinary, epochs=self.further_epochs),
                draw=FURTHER + stage,
                start={"previous": models[-1], "base": models[0], "scratch": None}[start],
                negatives=negatives if labels or dealt else None,
            )
            models.append(replace(model, **own))
        return tuple(models)

    def arms(self) -> dict[str, Arm]:
        """All arms by name, in the order of the report."""
        mcl = self.further(self.mcl_lr, labels=True)
        arms = {
            BASE: (self.base,),
            LONG: (self.independent(self.long_lr, shares=self.stages + 1),),
            ENSEMBLE: tuple(self.independent(self.ensemble_lr, draw) for draw in range(self.stages + 1)),
            SNAPSHOTS: self.further(self.snapshot_lr),
            SHUFFLED: self.further(self.shuffled_lr, dealt=mcl),
            MCL: mcl,
            HARD: self.further(self.hard_lr, hardness=self.hardness),
        }
        if self.stages > 1:
            arms[FROM_BASE] = self.further(self.mcl_lr, labels=True, start="base")
        return {name: Arm(name, models) for name, models in arms.items()}

    def one_tower(self) -> dict[str, Arm]:
        """MCL in one model: its student, the mean of its weights, and one long run with the student's compute added."""
        stages = self.arms()[MCL].models
        soup = Model(recipe=replace(self.recipe(self.mcl_lr), epochs=0), mean_of=stages, shift=self.shift)
        mixed = self.student_ordinary < 1
        recipe = self.recipe(self.student_lr, self.student_shares)
        student = Model(
            recipe=replace(recipe, ordinary=self.student_ordinary) if mixed else recipe,
            draw=STUDENT_DRAW,
            start=soup if self.student_from_soup else stages[-1],
            negatives=stages[-1].negatives if mixed else None,
            shift=self.shift,
            teacher=Teacher(models=stages, contrastive=self.student_contrastive, scale=self.student_scale),
        )
        shares = self.stages + 1 + self.student_shares
        longer = self.independent(self.long_lr, shares=shares)
        return {name: Arm(name, (model,)) for name, model in ((STUDENT, student), (SOUP, soup), (LONGER, longer))}


def at_rates(settings: Settings, rate_of: Mapping[str, str], rates: Sequence[float]) -> dict[str, dict[float, Arm]]:
    """{arm: {rate: the arm at that rate, all else as `settings` says}}; rate_of: {arm: the field of its rate}."""
    found: dict[str, dict[float, Arm]] = {}
    for name, field in rate_of.items():
        changed: list[dict[str, Any]] = [{field: rate} for rate in rates]
        found[name] = {rate: replace(settings, **each).arms()[name] for rate, each in zip(rates, changed, strict=True)}
    return found
