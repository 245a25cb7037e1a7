"""What a user can cause, said in one line."""

import functools
import os
import sys
from collections.abc import Callable

from mcl_clip.launch import take_slurm


class UserError(ValueError):
    """A mistake in input or flags; its message says what is wrong and what to do, in one line."""


def exit_on_user_error(main: Callable[..., int | None]) -> Callable[..., int]:
    """Turn a `UserError` of a command into one line on stderr (from rank 0) and exit status 2.

    Ranks are torchrun's or SLURM's (see `launch.as_torchrun`).
    """

    @functools.wraps(main)
    def wrapped(*args, **kwargs) -> int:
        take_slurm()
        try:
            return main(*args, **kwargs) or 0
        except UserError as error:
            if int(os.environ.get("RANK", "0")) == 0:
                print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(2)

    return wrapped
