"""A clock for work that writes: what it wrote is on the disk when it stops."""

import os
import time


def timed(work) -> float:
    """Seconds of `work` and of bringing what it wrote to the disk; nothing else is left to be written."""
    os.sync()
    start = time.perf_counter()
    work()
    os.sync()
    return time.perf_counter() - start
