"""Samples set apart from all training, to fit the weights of a fusion on: whole groups, so that no twin is seen."""

import json
from dataclasses import dataclass

from mcl_clip import seeds
from mcl_clip.errors import UserError

APART = "set apart in whole groups (--mcl-fit-share)"  # the reason in `Manifest.left_out`
UNGROUPED = "without a group (--mcl-fit-group): never set apart"


@dataclass(frozen=True, kw_only=True)
class Apart:
    """`share` of the groups, chosen by a hash of (seed, group) alone.

    A group is the samples of one caption, the first where a sample has several, whatever its case and spaces; or with
    `key` those with one value under `key` of their `.json`, of which a sample without any belongs to no group.
    """

    share: float
    key: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UserError(f"--mcl-fit-share {self.share} is a share of the groups: above 0 and below 1")

    def holds(self, group: str) -> bool:
        """Whether this group is set apart."""
        return seeds.number_of(f"{self.seed}\0{group}") < self.share * 2**64

    def group(self, caption: str | None, record: bytes | None) -> str | None:
        """The group of a sample with this first caption and this `.json`, if any."""
        if self.key is None:
            return " ".join(caption.casefold().split()) if caption else None
        try:
            content = json.loads(record or b"")
        except (ValueError, RecursionError):
            return None
        value = content.get(self.key) if isinstance(content, dict) else None
        return None if value in (None, "") else json.dumps(value, sort_keys=True)

    def __str__(self) -> str:
        groups = f"{self.key!r} of the .json" if self.key else "caption"
        return f"{self.share:g} of the groups by {groups}, seed {self.seed}"
