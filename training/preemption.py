"""SIGTERM: the step in progress is finished and saved, then the worker ends with a status of its own."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

STATUS = 75  # EX_TEMPFAIL: everything is saved, run the same command again


class Preempted(Exception):
    """The process was asked to end; what is on disk is whole."""


class Preemption(contextlib.AbstractContextManager):
    """Listens for SIGTERM while it is entered (in the main thread; elsewhere it hears nothing).

    Outside `deferred` the signal raises `Preempted` at once, which is safe because every artifact is whole or absent.
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
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a forked helper process: it has nothing to save
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            return
        self.requested = True
        if not self._deferred:
            raise Preempted
