"""Of a recipe: what is trained for, and what a student learns from whom."""

from dataclasses import dataclass, field

FREE = {"free": True}  # does not change results, so another value may resume the run


@dataclass(frozen=True, kw_only=True)
class ObjectiveRecipe:
    """What is trained for. All but the name is None for "clip"; the views' settings are of `Augmentations`.

    fuse_on: which embedding of the stages is fused.
    """

    objective: str = "clip"
    temperature: float | None = None
    projection_dim: int | None = None
    queue: int | None = None
    key_momentum: float | None = None
    fuse_on: str | None = None
    crop_scale: list[float] | None = None
    flip: float | None = None
    jitter: float | None = None
    jitter_strengths: list[float] | None = None
    gray: float | None = None
    blur: float | None = None
    blur_sigma: list[float] | None = None


@dataclass(frozen=True, kw_only=True)
class DistillRecipe:
    """What a student learns from whom; a student's model names what it was made from, so all may change in a run.

    distill: the fused model gets a student, of which the next three are. distill_model: this run's model is a student.
    ordinary, contrastive: None where there is no student.
    """

    distill: bool = field(default=False, metadata=FREE)
    distill_student: str | None = field(default=None, metadata=FREE)
    distill_epochs: int | None = field(default=None, metadata=FREE)
    distill_lr: float | None = field(default=None, metadata=FREE)
    distill_model: str | None = field(default=None, metadata=FREE)
    distill_pretrained: str | None = field(default=None, metadata=FREE)
    distill_buckets: str | None = field(default=None, metadata=FREE)
    distill_ordinary: float | None = field(default=None, metadata=FREE)
    distill_contrastive: float | None = field(default=None, metadata=FREE)

    @property
    def mixes(self) -> bool:
        """Whether this run's model is a student, some of whose batches are of one pseudo-label."""
        return self.distill_buckets is not None and self.distill_ordinary != 1

    @property
    def ordinary(self) -> float:
        """The share of this model's batches that are of all pseudo-labels, beside others."""
        return self.distill_ordinary or 0.0 if self.mixes else 0.0
