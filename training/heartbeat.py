"""Whether the other machines of a job still answer: a network that is cut gives no error, only silence."""

import contextlib
import os
import sys
import threading
import time
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from mcl_clip.errors import UserError

SECONDS = 300.0  # of silence that a job outlasts; MCL_HOST_TIMEOUT


class Heartbeat:
    """Ends this process when the first rank's store, or to the first rank another rank, is silent for too long.

    Every rank counts up in the store over a connection of its own, in a thread; the first one reads all counts. Time in
    which this process itself was stopped does not count.
    """

    def __init__(self, host: str, port: int, rank: int, world_size: int, seconds: float):
        self.rank, self.seconds = rank, seconds
        self._others = [f"beat-{other}" for other in range(world_size) if other != rank] if rank == 0 else []
        self._counts: dict[str, bytes] = {}
        self._heard = dict.fromkeys(["", *self._others], time.monotonic())  # by key; the store itself under ""
        self._ended = threading.Event()
        store = dist.TCPStore(host, port, is_master=False, timeout=timedelta(seconds=10 * seconds))
        for work in (lambda: self._beat(dist.PrefixStore("mcl_clip-heartbeat", store)), self._watch):
            threading.Thread(target=work, daemon=True).start()

    def stop(self) -> None:
        """The job is over: silence is no fault from here on."""
        self._ended.set()

    def _beat(self, store: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the store has ended, which the ranks hear of otherwise
            while True:
                store.add(f"beat-{self.rank}", 1)  # which, unlike `set`, waits for an answer
                if self._others:
                    self._compare(store)
                self._heard[""] = time.monotonic()
                if self._ended.wait(self.seconds / 20):
                    return

    def _compare(self, store: Any) -> None:
        keys = self._others
        if not store.check(keys):  # some have not begun
            keys = [key for key in keys if store.check([key])]
        for key, count in zip(keys, store.multi_get(keys) if keys else (), strict=True):
            if self._counts.get(key) != count:
                self._counts[key], self._heard[key] = count, time.monotonic()

    def _watch(self) -> None:
        tick, last = self.seconds / 20, time.monotonic()
        while not self._ended.wait(tick):
            now = time.monotonic()
            stopped, last = now - last - tick, now
            if stopped > tick:
                self._heard = {key: then + stopped for key, then in self._heard.items()}
            silent = [key for key, then in list(self._heard.items()) if now - then > self.seconds]
            if silent and not self._ended.is_set():
                who = "the first rank" if "" in silent else f"rank {silent[0].removeprefix('beat-')}"
                reason = f"{who} has not answered for {self.seconds:.0f} s (MCL_HOST_TIMEOUT)"
                mend = "its machine or the network is gone; the same command goes on from what is saved"
                print(f"rank {self.rank} ends: {reason}, {mend}", file=sys.stderr, flush=True)
                os._exit(1)


def start_heartbeat(rank: int, world_size: int) -> Heartbeat | None:
    """That of a job on several machines; None on one, where the end of a process shows."""
    if int(os.environ.get("LOCAL_WORLD_SIZE", "0")) == world_size:
        return None
    told = os.environ.get("MCL_HOST_TIMEOUT") or str(SECONDS)
    try:
        seconds = float(told)
        if not 1 <= seconds < float("inf"):
            raise ValueError
    except ValueError:
        raise UserError(f"MCL_HOST_TIMEOUT={told} is not a number of seconds, 1 or more") from None
    store = dist.distributed_c10d._get_default_store()
    while hasattr(store, "underlying_store"):
        store = store.underlying_store
    if not isinstance(store, dist.TCPStore):
        return None
    return Heartbeat(store.host, store.port, rank, world_size, seconds)
