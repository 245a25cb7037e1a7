"""What may be chosen about a plan."""

from dataclasses import dataclass

from mcl_clip.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What may be chosen about a plan. Raises `UserError` on values that make no plan.

    leftovers: "pack" (n mod G samples of every bucket share batches of several segments) or "drop" (left out,
    counted). min_segment: pseudo-labels with fewer samples back off to their parent path. lanes: at most so
    many ranges of a bucket are read side by side. window: samples that are shuffled together; a lane is never
    shorter. Lanes x window samples of a bucket are in play at a time.
    """

    leftovers: str = "pack"
    min_segment: int = 32
    lanes: int = 64
    window: int = 8192

    def __post_init__(self) -> None:
        if self.leftovers not in ("pack", "drop"):
            raise UserError(f"leftovers must be 'pack' or 'drop', not {self.leftovers!r}")
        for name in ("min_segment", "lanes", "window"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
