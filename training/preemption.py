"""SIGTERM: the step in progress is finished and saved, then the worker ends with a status of its own."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

STATUS = 75  # EX_TEMPFAIL: everything is saved, run the same command again


class Preempted(BaseException):
    """The process was asked to end; what is on disk is whole. No `except Exception` on its way holds it up."""


class Preemption(contextlib.AbstractContextManager):
    """Listens for SIGTERM while it is entered (in the main thread; elsewhere it hears nothing).

    Outside `deferred` the signal raises `Preempted` at once, which is safe because every artifact is whole or absent.
    It is raised once only: what is saved on the way out is not disturbed by a second signal.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False
        self._owner = os.getpid()
        self._before: signal.Handlers | object = None

    def __enter__(self) -> "Preemption":
        self._listening = threading.current_thread() is threading.main_thread()
        if self._listening:
            self._before = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        if self._listening:
            signal.signal(signal.SIGTERM, self._before)  # type: ignore[arg-type]

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
        """Around work with processes of its own, which hear the same SIGTERM: that they die of it is no failure."""
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
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        first, self.requested = not self.requested, True
        if first and not self._deferred:
            raise Preempted
