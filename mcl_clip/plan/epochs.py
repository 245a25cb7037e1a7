"""The plans of a run, epoch after epoch, each made when it is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from mcl_clip.plan.plan import Plan, make_plan
from mcl_clip.plan.policy import Policy


@dataclass
class EpochPlans:
    """`plans[epoch]` is the plan of that pass over the data; the last two made are kept, but not pickled.

    Two, because what is prefetched may be a pass ahead of what is trained on. Arguments as of `make_plan`.
    """

    label_paths: Sequence[str]
    shard_label: np.ndarray
    shard_size: np.ndarray
    seed: int
    stage: int
    global_batch: int
    policy: Policy
    shard_repeats: np.ndarray | None = None
    _made: dict[int, Plan] = field(default_factory=dict, repr=False)

    def __getitem__(self, epoch: int) -> Plan:
        if epoch not in self._made:
            plan = make_plan(
                self.label_paths,
                self.shard_label,
                self.shard_size,
                seed=self.seed,
                stage=self.stage,
                epoch=epoch,
                global_batch=self.global_batch,
                policy=self.policy,
                shard_repeats=self.shard_repeats,
            )
            latest = list(self._made.items())[-1:]
            self._made = {**dict(latest), epoch: plan}
        return self._made[epoch]

    def go_on_with(self, policy: Policy) -> None:
        """Plan by another policy from here on."""
        self.policy, self._made = policy, {}

    def __getstate__(self):
        return {**self.__dict__, "_made": {}}
