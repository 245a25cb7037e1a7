"""Two machines in one: network namespaces with addresses of their own, a cable between them, and a shared folder."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.jobs import wait_for

ADDRESSES = ("10.213.77.1", "10.213.77.2")
PORT = 29577


class Host:
    """One of the two; torchrun starts its ranks."""

    def __init__(self, name: str, number: int):
        self.name, self.number = name, number
        self.agent: subprocess.Popen | None = None

    def run(self, *command: str) -> None:
        """Run a command of the system on this host."""
        subprocess.run(["ip", "netns", "exec", self.name, *command], check=True, capture_output=True)

    def start(self, arguments: Sequence[str], log: Path, ranks: int = 2, seconds: float = 300) -> None:
        """`training.main` on this host's ranks, under torchrun with a rendezvous at the first host."""
        launcher = [
            *("--nnodes", "2", "--nproc-per-node", str(ranks), "--rdzv-backend", "c10d", "--rdzv-id", "job"),
            *("--rdzv-endpoint", f"{ADDRESSES[0]}:{PORT}", "--local-addr", ADDRESSES[self.number]),
            *("--rdzv-conf", f"is_host={int(self.number == 0)},join_timeout=300"),
        ]
        environment = {"GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1", "MCL_HOST_TIMEOUT": str(seconds)}
        with open(log, "ab") as output:
            self.agent = subprocess.Popen(
                [
                    *("ip", "netns", "exec", self.name, sys.executable, "-m", "torch.distributed.run", *launcher),
                    *("-m", "training.main", "--", *arguments),
                ],
                stdout=output, stderr=output, env=os.environ | environment, start_new_session=True,
            )  # fmt: skip

    def ranks(self) -> list[int]:
        """Processes of its ranks that live."""
        assert self.agent
        found = Path(f"/proc/{self.agent.pid}/task/{self.agent.pid}/children")
        with contextlib.suppress(OSError):
            lives = [int(child) for child in found.read_text().split()]
            return [child for child in lives if b"training.main" in Path(f"/proc/{child}/cmdline").read_bytes()]
        return []

    def signal(self, number: int) -> None:
        """To all of its ranks."""
        for rank in self.ranks():
            with contextlib.suppress(ProcessLookupError):
                os.kill(rank, number)

    def unplug(self) -> None:
        """Cut the cable, which no process is told of."""
        self.run("ip", "link", "set", "cable", "down")

    def plug_in(self) -> None:
        """And mend it."""
        self.run("ip", "link", "set", "cable", "up")

    def finish(self, timeout: float) -> int:
        """Status of torchrun, when it has ended."""
        assert self.agent
        return self.agent.wait(timeout)

    def end(self) -> None:
        """Take away whatever still runs of torchrun."""
        if self.agent and self.agent.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.agent.pid, signal.SIGKILL)
            self.agent.wait()
        wait_for(lambda: not self.agent or not self.ranks(), 60)


@contextlib.contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """The two, or a skipped test where namespaces cannot be had."""
    names = [f"mcl-{os.getpid()}-{number}" for number in range(2)]
    try:
        for number, name in enumerate(names):
            subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
            Host(name, number).run("ip", "link", "set", "lo", "up")
        near, far = (f"v{os.getpid() % 100000}{end}" for end in "ab")
        cable = ["ip", "link", "add", near, "type", "veth", "peer", "name", far]
        subprocess.run(cable, check=True, capture_output=True)
        for name, end, address in zip(names, (near, far), ADDRESSES, strict=True):
            subprocess.run(["ip", "link", "set", end, "netns", name], check=True, capture_output=True)
            host = Host(name, 0)
            host.run("ip", "link", "set", end, "name", "cable")
            host.run("ip", "addr", "add", f"{address}/24", "dev", "cable")
            host.run("ip", "link", "set", "cable", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        _take_away(names)
        pytest.skip(f"network namespaces cannot be had here ({getattr(error, 'stderr', None) or error})")
    first, second = (Host(name, number) for number, name in enumerate(names))
    try:
        yield first, second
    finally:
        for host in (first, second):
            host.end()
        _take_away(names)


def _take_away(names: Sequence[str]) -> None:
    for name in names:
        with contextlib.suppress(OSError):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
