"""SIGTERM or SIGUSR1: the step in progress is finished and saved, then the worker ends with a status of its own."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

STATUS = 75  # EX_TEMPFAIL: everything is saved, run the same command again
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)  # SLURM's --signal=USR1@120 comes before its time is up


class Preempted(BaseException):
    """The process was asked to end; what is on disk is whole. No `except Exception` on its way holds it up."""


class Preemption(contextlib.AbstractContextManager):
    """Listens for `SIGNALS` while it is entered (in the main thread; elsewhere it hears nothing).

    Outside `deferred` the signal raises `Preempted` at once, which is safe because every artifact is whole or absent.
    It is raised once only: what is saved on the way out is not disturbed by a second signal.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False
        self._owner = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Preemption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the signal only sets `requested`; whoever asks ends by itself."""
        with self._deferring(True):
            yield

    @contextlib.contextmanager
    def prompt(self) -> Iterator[None]:
        """Inside, within `deferred`, the signal raises again, and so does one that came before."""
        with self._deferring(False):
            if self.requested:
                raise Preempted
            yield

    @contextlib.contextmanager
    def excusing_workers(self) -> Iterator[None]:
        """Around work with processes of its own, which hear the same signal: that they die of it is no failure."""
        try:
            yield
        except RuntimeError:
            time.sleep(0.5)  # theirs may have come before ours
            if self.requested:
                raise Preempted from None
            raise

    @contextlib.contextmanager
    def _deferring(self, value: bool) -> Iterator[None]:
        before, self._deferred = self._deferred, value
        try:
            yield
        finally:
            self._deferred = before

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a forked helper process: it has nothing to save
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        first, self.requested = not self.requested, True
        if first and not self._deferred:
            raise Preempted
