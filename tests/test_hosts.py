"""Jobs on two machines of two ranks: the bits of four ranks on one; cut off and slow machines in every phase."""

import os
import signal
import time

import pytest

from tests.hosts import two_hosts
from tests.jobs import run_job, wait_for
from tests.test_resume import phase
from tests.tiny_runs import command, fingerprint, losses

pytestmark = pytest.mark.skipif(
    os.environ.get("MCL_TEST_PROFILE") != "long", reason="takes minutes: MCL_TEST_PROFILE=long, as make test-long does"
)
PHASES = ("index", "training", "clusters", "buckets", "fused model")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """(its arguments, its bits, its losses) of four ranks on one machine."""
    directory = tmp_path_factory.mktemp("alone")
    arguments = command(directory, "--mcl-stages", "2", "--gather-with-grad", "--mcl-save-steps", "3")
    arguments[arguments.index("--batch-size") + 1] = "4"
    log = directory / "log"
    assert run_job(arguments, log, 4) == [0] * 4, log.read_text()
    return arguments, bits(directory), [losses(directory, stage) for stage in range(3)]


@pytest.fixture(scope="module")
def hosts():
    with two_hosts() as both:
        yield both


def bits(directory):
    return {name: value for name, value in fingerprint(directory).items() if not name.startswith("fused/stages")}


def elsewhere(arguments, directory):
    """The same command, over the same tars, into another folder."""
    changed = [*arguments]
    changed[changed.index("--logs") + 1] = f"{directory}/runs"
    return changed


def start(hosts, arguments, log, seconds=300.0):
    for host in hosts:
        host.start(arguments, log, seconds=seconds)


def finish(hosts, log):
    try:
        statuses = [host.finish(900) for host in hosts]
        assert statuses == [0, 0], log.read_text()
    finally:
        for host in hosts:
            host.end()


def assert_same(alone, directory):
    assert bits(directory) == alone[1]
    assert [losses(directory, stage) for stage in range(3)] == alone[2]


def arrives(hosts, run, wanted):
    """Wait until a run is in one of the phases `wanted`, its ranks at work; which one, or None where it has ended."""
    found = []

    def there():
        if any(host.agent.poll() is not None for host in hosts):
            return True
        now = phase(run) if run.exists() else None
        if now in wanted:
            found.append(now)
        return bool(found)

    wait_for(there)
    return found[0] if found else None


def test_two_machines_give_the_bits_of_one_also_when_one_is_slow_in_every_phase(alone, hosts, tmp_path):
    run, log, slowed = tmp_path / "runs/run", tmp_path / "log", []
    start(hosts, elsewhere(alone[0], tmp_path), log)
    while (now := arrives(hosts, run, set(PHASES) - set(slowed))) is not None:
        slowed.append(now)
        hosts[1].signal(signal.SIGSTOP)
        time.sleep(10)
        hosts[1].signal(signal.SIGCONT)
        if len(slowed) == len(PHASES):
            break
    finish(hosts, log)
    assert len(slowed) >= 4, slowed  # a phase may be over before it is seen
    assert_same(alone, tmp_path)


def test_a_machine_that_is_cut_off_ends_the_job_clearly_and_the_same_command_goes_on(alone, hosts, tmp_path):
    run, arguments, cut = tmp_path / "runs/run", elsewhere(alone[0], tmp_path), []
    seconds = 25.0
    for attempt in range(len(PHASES)):
        log = tmp_path / f"log-{attempt}"
        start(hosts, arguments, log, seconds)
        now = arrives(hosts, run, set(PHASES) - set(cut))
        if now is None:
            break
        for host in hosts:  # so that the phase is still the one it was
            host.signal(signal.SIGSTOP)
        hosts[1].unplug()
        for host in hosts:
            host.signal(signal.SIGCONT)
        wait_for(lambda: not any(host.ranks() for host in hosts), 20 * seconds)
        told = log.read_text()
        assert "has not answered for" in told and "the same command goes on from what is saved" in told, told
        for host in hosts:
            host.end()
        hosts[1].plug_in()
        cut.append(now)
    assert len(cut) >= 4, cut
    start(hosts, arguments, tmp_path / "log-last")
    finish(hosts, tmp_path / "log-last")
    assert_same(alone, tmp_path)
