"""What may be chosen about a plan."""

from dataclasses import dataclass, replace

from mcl_clip.errors import UserError

LANE_POSITIONS = 256  # of a global batch: a machine of 8 devices with 32 samples each reads one lane
MAX_WINDOW = 8192


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What may be chosen about a plan. Raises `UserError` on values that make no plan.

    leftovers: "pack" (n mod G samples of every bucket share batches of several segments) or "drop" (left out,
    counted). min_segment: pseudo-labels with fewer samples back off to their parent path. lanes: at most so
    many ranges of a bucket are read side by side. window: samples that are shuffled together; a lane is never
    shorter. Lanes x window samples of a bucket are in play at a time. None: see `lanes_and_window`. ordinary: share of
    the shards, others in every epoch, that make ordinary batches, of all pseudo-labels.
    """

    leftovers: str = "pack"
    min_segment: int = 32
    lanes: int | None = None
    window: int | None = None
    ordinary: float = 0.0

    def __post_init__(self) -> None:
        if self.leftovers not in ("pack", "drop"):
            raise UserError(f"leftovers must be 'pack' or 'drop', not {self.leftovers!r}")
        if not 0 <= self.ordinary <= 1:
            raise UserError(f"the share of ordinary batches is from 0 to 1, not {self.ordinary}")
        if self.ordinary and self.leftovers == "drop":
            raise UserError(
                "leftovers that are dropped are others in every epoch where some batches are ordinary: pack"
            )
        for name in ("min_segment", "lanes", "window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")

    def lanes_and_window(self, global_batch: int) -> tuple[int, int]:
        """The two as numbers; where they are None, a lane for every LANE_POSITIONS of the batch, and MAX_WINDOW."""
        return self.lanes or max(1, global_batch // LANE_POSITIONS), self.window or MAX_WINDOW

    def resolved(self, global_batch: int) -> "Policy":
        """The same with numbers for both."""
        lanes, window = self.lanes_and_window(global_batch)
        return replace(self, lanes=lanes, window=window)


def earlier_window(buckets: int) -> int:
    """The default of earlier versions, made for buckets in a cache; a stage that began with it goes on with it."""
    return max(1, min(MAX_WINDOW, (1 << 19) // max(buckets, 1)))
