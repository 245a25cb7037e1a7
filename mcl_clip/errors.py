"""What a user can cause, said in one line."""

import errno
import functools
import re
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool

from mcl_clip.launch import is_first_process, take_slurm

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class UserError(ValueError):
    """A mistake in input or flags; its message says what is wrong and what to do, in one line."""


def as_user_error(error: Exception) -> UserError:
    """`error` as one line for the user; raises it again where it is neither the user's nor the machine's."""
    if isinstance(error, UserError):
        return error
    message = machine_error(error)
    if message is None:
        raise error
    return UserError(message)


def machine_error(error: BaseException) -> str | None:
    """What to tell the user of a full disk, full shared memory or a killed reader process; None for any other error."""
    text = str(error)
    again = "run the same command again"
    if re.search(r"shared memory|/dev/shm|<?/torch_\d", text) and not isinstance(error, BrokenProcessPool):
        return (
            "shared memory (/dev/shm), through which reader processes hand over their batches, is full: give it more "
            f"(docker run --shm-size 8g), or use --workers 0 or a smaller --batch-size, and {again}"
        )
    full = isinstance(error, OSError) and error.errno in FULL_DISK
    if full or "No space left on device" in text or "PytorchStreamWriter failed writing" in text:
        name = getattr(error, "filename", None)
        where = f" while {name} was written" if name else ""
        return f"the disk is full{where}; all that was finished is intact: free space and {again}"
    killed = re.search(r"DataLoader worker .*(killed by signal: [\w ]+|exited unexpectedly)", text)
    if killed or isinstance(error, BrokenProcessPool):
        how = f" ({killed[1].strip()})" if killed else ""
        return (
            f"a reader process ended{how}, perhaps for want of memory (see dmesg); all that was finished is intact: "
            f"lower --workers and {again}"
        )
    return None


def exit_on_user_error(main: Callable[..., int | None]) -> Callable[..., int]:
    """Turn a `UserError` of a command into one line on stderr (from rank 0) and exit status 2.

    Ranks are torchrun's or SLURM's (see `launch.as_torchrun`).
    """

    @functools.wraps(main)
    def wrapped(*args, **kwargs) -> int:
        take_slurm()
        try:
            return main(*args, **kwargs) or 0
        except Exception as raised:
            error = as_user_error(raised)
            if is_first_process():
                print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(2)

    return wrapped
