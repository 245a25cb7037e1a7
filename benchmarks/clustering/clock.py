"""Seconds of a call."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def timed(call: Callable[[], T]) -> tuple[float, T]:
    """Wall time of one call, and what it gave."""
    begin = time.perf_counter()
    result = call()
    return time.perf_counter() - begin, result
