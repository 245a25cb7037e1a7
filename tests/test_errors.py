"""What the machine has too little of is one line, whatever library says it."""

import errno
import os
from concurrent.futures.process import BrokenProcessPool

import pytest

from mcl_clip.errors import UserError, as_user_error, machine_error

KILLED = "DataLoader worker (pid 7) is killed by signal: Killed. "
BUS = (
    "DataLoader worker (pid(s) 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of "
    "shared memory. Please try to raise your shared memory limit."
)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.tar"), "disk is full while a.tar was written"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "disk is full"),
        (Exception("Error while serializing: I/O error: No space left on device (os error 28)"), "disk is full"),
        (RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"), "disk is full"),
        (RuntimeError(KILLED), r"reader process ended \(killed by signal: Killed\)"),
        (RuntimeError("DataLoader worker (pid(s) 3, 4) exited unexpectedly"), "reader process ended"),
        (BrokenProcessPool("A process in the process pool was terminated abruptly"), "reader process ended"),
        (RuntimeError(BUS), "/dev/shm.*full.*--shm-size"),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_3>: No space left"), "/dev/shm"),
    ],
)
def test_it_says_what_to_do(error, said):
    with pytest.raises(UserError, match=said) as raised:
        raise as_user_error(error)
    assert "\n" not in str(raised.value) and "again" in str(raised.value)


def test_any_other_error_is_raised_as_it_is():
    for error in (OSError(errno.ENOENT, "no such file"), RuntimeError("CUDA error"), KeyError("fname")):
        assert machine_error(error) is None
        with pytest.raises(type(error)):
            as_user_error(error)
