"""Work that all ranks of a job do together."""

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist

from mcl_clip.errors import UserError

T = TypeVar("T")


def on_all_ranks(work: Callable[[], T], world_size: int) -> T:
    """What `work` makes of this rank; where it fails on one, it fails on all, so that none waits for it.

    The rank that failed raises its own error, the others a `UserError` of the same words.
    """
    failure: Exception | None = None
    try:
        made = work()
    except Exception as error:
        failure = error
    said = "" if failure is None else str(failure) or type(failure).__name__
    told = [said] * world_size
    if world_size > 1:
        dist.all_gather_object(told, said)
    if failure is not None:
        raise failure
    if others := [each for each in told if each]:
        raise UserError(others[0])
    return made
