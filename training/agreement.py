"""One bit that all ranks agree on in every step, without a pause: has anyone been asked to end?"""

import torch
import torch.distributed as dist

from training.ranks import Ranks


class Agreement:
    """The answer of one step is known at the end of the next, so the exchange hides behind the step."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    def any(self, mine: bool) -> bool:
        """Call once a step on every rank. True on all ranks alike; in a job of one process it is `mine`."""
        if self._ranks.world_size == 1:
            return mine
        answer = self._collect()
        flag = torch.tensor([int(mine)])
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._ranks.control, async_op=True)
        self._pending = (work, flag)
        return answer

    def close(self) -> None:
        """Finish the exchange in flight."""
        self._collect()

    def _collect(self) -> bool:
        if self._pending is None:
            return False
        work, flag = self._pending
        self._pending = None
        work.wait()
        return bool(flag.item())
