"""The ranks of a job as one value, and how they wait for each other outside of training steps."""

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from mcl_clip.errors import UserError
from mcl_clip.world import World
from training.heartbeat import Heartbeat, start_heartbeat

T = TypeVar("T")
POLL_SECONDS = 0.2


class RankLost(RuntimeError):
    """Another rank has ended by an error of its own, which it has told; `status` is its exit status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass
class Ranks(World):
    """Who we are among the ranks. The default is a job of one process.

    Waiting goes through the job's key-value store in short polls: phases without collectives (indexing, clustering,
    bucketing) may take hours, which no collective outlasts, and a waiting rank still hears SIGTERM. Methods that
    wait must be called by all ranks in the same order.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    store: Any = None
    control: Any = None  # gloo group, for the one number that ranks agree on in every step
    heartbeat: Heartbeat | None = None
    _turn: int = field(default=0, repr=False)

    def barrier(self) -> None:
        """Wait for all ranks, however long; raises `UserError` or `RankLost` when another rank failed."""
        if self.world_size == 1:
            return
        self._turn += 1
        if self.store.add(f"arrived-{self._turn}", 1) == self.world_size:
            self.store.set(f"open-{self._turn}", b"1")
        self._wait(f"open-{self._turn}")

    def on_first(self, work: Callable[[], T]) -> T | None:
        """Run `work` on the first rank while the others wait; returns its value there, None elsewhere."""
        result = work() if self.is_first else None
        self.barrier()
        return result

    def share(self, value: Callable[[], T]) -> T:
        """What `value` gives on the first rank, on all ranks; so is a `UserError` that it raises there."""
        if self.world_size == 1:
            return value()
        self._turn += 1
        key = f"shared-{self._turn}"
        if self.is_first:
            try:
                found = value()
            except UserError as error:
                self.store.set(key, json.dumps({"error": str(error)}))
                raise
            self.store.set(key, json.dumps({"value": found}))
            return found
        self._wait(key)
        answer = json.loads(self.store.get(key))
        if "error" in answer:
            raise UserError(answer["error"])
        return answer["value"]

    def gather(self, value: T) -> list[T]:
        """What every rank gives, by rank, on the first one; an empty list elsewhere."""
        if self.world_size == 1:
            return [value]
        self._turn += 1
        keys = [f"gathered-{self._turn}-{rank}" for rank in range(self.world_size)]
        self.store.set(keys[self.rank], json.dumps(value))
        found: list[T] = []
        for key in keys if self.is_first else ():
            self._wait(key)
            found.append(json.loads(self.store.get(key)))
            self.store.delete_key(key)
        return found

    def mean(self, values: Sequence[float]) -> list[float]:
        """Elementwise mean over the ranks, which all give equally many values."""
        if self.world_size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self.control)
        return (total / self.world_size).tolist()

    def union(self, mine: list[int]) -> list[int]:
        """The numbers of all ranks, sorted. Made for every step, where hardly ever a rank has any: one sum tells."""
        if self.world_size == 1:
            return sorted(mine)
        count = torch.tensor(len(mine))
        dist.all_reduce(count, group=self.control)
        if not count:
            return []
        numbers: list[Any] = [None] * self.world_size
        dist.all_gather_object(numbers, mine, group=self.control)
        return sorted(number for each in numbers for number in each)

    def fail(self, error: UserError) -> bool:
        """Tell all ranks of a user error; True on the rank that is to say it, which is the first one if it can."""
        if self.world_size == 1:
            return True
        try:
            self.store.set("failed", str(error) or "failed")
            return self.is_first or not self.comes("told", 10)
        except RuntimeError:  # the first rank, whose store it is, has ended
            return True

    def told(self) -> None:
        """The error has been said; the first rank waits a little for the others, who may read its store."""
        if self.world_size == 1:
            return
        with contextlib.suppress(RuntimeError):  # the first rank, whose store it is, has ended
            if self.is_first:
                self.store.set("told", b"1")
            if self.store.add("heard", 1) == self.world_size:
                self.store.set("all-heard", b"1")
            if self.is_first:
                self.comes("all-heard", 3)

    def lose(self, status: int, error: BaseException) -> RankLost | None:
        """Tell all ranks that this one ends by `error`; the one that did before, if any, is returned instead.

        A collective fails when a rank dies in it: that rank's error is the cause, not the others'.
        """
        if self.world_size == 1:
            return None
        try:
            if self.store.check(["failed"]):
                return RankLost(2, self.store.get("failed").decode())
            if self.store.check(["lost"]):
                return self._lost()
            self.store.set("lost", f"{status} rank {self.rank} failed ({type(error).__name__}: {error})")
        except RuntimeError:  # the first rank, whose store it is, has died
            pass
        return None

    def _lost(self) -> RankLost:
        status, _, reason = self.store.get("lost").decode().partition(" ")
        return RankLost(int(status), reason)

    def is_first_to_say(self, what: str) -> bool:
        """True on the one rank that asks first."""
        return self.world_size == 1 or self.store.add(f"said-{what}", 1) == 1

    def comes(self, key: str, seconds: float) -> bool:
        """Whether somebody sets `key` within so many seconds."""
        deadline = time.monotonic() + seconds
        while not self.store.check([key]):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def hear(self) -> None:
        """Raise what another rank has failed by, if one has: its `UserError`, or `RankLost`."""
        if self.world_size == 1:
            return
        if self.store.check(["failed"]):
            raise UserError(self.store.get("failed").decode())
        if self.store.check(["lost"]):
            raise self._lost()

    def _wait(self, key: str) -> None:
        pause = 0.001
        while not self.store.check([key]):
            self.hear()
            time.sleep(pause)
            pause = min(2 * pause, POLL_SECONDS)


def join(device: str, backend: str | None, url: str | None, no_set_device_rank: bool) -> Ranks:
    """Join the job that torchrun or SLURM started, with open_clip's own initialisation; else be one process.

    Raises `UserError` for a device or backend that there is none of.
    """
    from mcl_clip.openclip.distributed import init_distributed_device_so

    try:
        info = init_distributed_device_so(
            device=device, dist_backend=backend, dist_url=url, no_set_device_rank=no_set_device_rank
        )
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"--device {device}, --dist-backend {backend}: the ranks cannot be set up ({reason})") from None
    ranks = Ranks(info["global_rank"], info["world_size"], info["local_rank"], torch.device(info["device"]))
    if info["distributed"]:
        ranks.store = dist.PrefixStore("mcl_clip", dist.distributed_c10d._get_default_store())
        ranks.control = dist.new_group(backend="gloo", timeout=timedelta(hours=1))
        ranks.heartbeat = start_heartbeat(ranks.rank, ranks.world_size)
    return ranks


def leave(ranks: Ranks) -> None:
    """End the process group that `join` began; the first rank, whose store the others read, goes last."""
    if ranks.world_size == 1 or not dist.is_initialized():
        return
    if ranks.heartbeat:
        ranks.barrier()
        ranks.heartbeat.stop()
    if ranks.store.add("left", 1) == ranks.world_size:
        ranks.store.set("all-left", b"1")
    if ranks.is_first:
        ranks.comes("all-left", 60)
    dist.destroy_process_group()
