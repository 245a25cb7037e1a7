"""Samples that turn out unreadable in training: how many are borne, and what is told of them."""

import logging
import math

from mcl_clip.errors import UserError
from mcl_clip.left_out import FIRST, Record, note
from mcl_clip.loading.dataset import Samples

LEAST = 100  # a rank always bears so many: in small data one bad file is a large share
LISTED = 20
log = logging.getLogger(__name__)


class Faults:
    """What one rank met; `UserError` when it is more than a share of its part of the data.

    why: {key: reason} of every unreadable sample. missing: keys of those that no sample could replace. slow: images
    that the fast decoder did not take, which are no faults.
    """

    def __init__(self, share: float, num_samples: int, world_size: int):
        self.limit = max(LEAST, math.ceil(share * num_samples / world_size))
        self.why: dict[str, str] = {}
        self.missing: set[str] = set()
        self.slow = 0

    def add(self, samples: Samples) -> None:
        """Take in what a worker met; the first ones are logged one by one."""
        self.slow += samples.slow
        for key, why in samples.faults:
            if key not in self.why and len(self.why) < LISTED:
                log.warning("%s cannot be read: %s", key, why)
            self.why[key] = why
        self.missing.update(samples.keys[index] for index in samples.missing)
        if len(self.why) > self.limit:
            listed = ", ".join(list(self.why)[:LISTED])
            raise UserError(
                f"{len(self.why)} samples cannot be read, more than the {self.limit} that a rank bears "
                f"(--mcl-max-faults): {listed}; check the data with mcl-shards verify"
            )

    def record(self) -> Record:
        """The counts and first keys."""
        record: Record = {}
        replaced = [key for key in self.why if key not in self.missing]
        for reason, keys in (
            ("unreadable, replaced by others of their pseudo-label", replaced),
            ("unreadable, masked out of the loss", sorted(self.missing)),
        ):
            if keys:
                note(record, reason, keys[:FIRST], len(keys))
        if self.slow:
            note(record, "decoded slowly, by Pillow", count=self.slow)
        return record
