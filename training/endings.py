"""How a command of several ranks ends by an error: said once, known to all ranks, and with one exit status."""

import os
import sys

from mcl_clip.errors import UserError, as_user_error
from mcl_clip.launch import is_first_process
from training.ranks import RankLost, Ranks


def end(ranks: Ranks | None, error: Exception) -> int:
    """Say a mistake, or what the machine lacks, once, or follow the rank that failed; returns the exit status.

    A bug of our own is told to the other ranks, who would wait for us, and raised again. `ranks`: None before they
    have joined.
    """
    if isinstance(error, RankLost):
        return _follow(error)
    try:
        known = as_user_error(error)
    except Exception:
        cause = ranks.lose(1, error) if ranks else None
        if cause:
            return _follow(cause)
        raise
    return _refuse(ranks, known)


def say(line: str) -> None:
    """One line on stderr."""
    print(" ".join(line.split()), file=sys.stderr, flush=True)


def _refuse(ranks: Ranks | None, error: UserError) -> int:
    if ranks.fail(error) if ranks else is_first_process():
        say(f"error: {error}")
    if ranks:
        ranks.told()
    return 2


def _follow(cause: RankLost) -> int:
    """End as the rank that failed ended; it has told why."""
    if cause.status == 1:
        say(f"rank {os.environ.get('RANK', '0')} ends: {cause}; see the traceback of that rank")
    return cause.status
