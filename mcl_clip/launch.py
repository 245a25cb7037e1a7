"""Who started this process: torchrun, SLURM's srun, or a person."""

import functools
import os
import re
from collections.abc import Callable, Mapping

ONE_PROCESS = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
PORTS = range(15_000, 30_000)  # below those that systems hand out by themselves


def as_torchrun(environment: Mapping[str, str]) -> dict[str, str]:
    """RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT of a task that srun started.

    A script of sbatch and a shell of salloc know the job's number of tasks, but are one process, and are told so.
    The address is the step's first node, the port follows from job and step; MASTER_ADDR and MASTER_PORT that are set
    stay. Empty outside of SLURM, and where WORLD_SIZE is set, which is torchrun's word. Source: srun(1), "OUTPUT
    ENVIRONMENT VARIABLES".
    """
    if "WORLD_SIZE" in environment or not any(name.startswith("SLURM_") for name in environment):
        return {}
    is_step = any(name.startswith("SLURM_STEP") for name in environment)
    tasks = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or "1"
    if not is_step or tasks == "1":
        return ONE_PROCESS
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    job, step = (int(environment.get(f"SLURM_{name}_ID", "0")) for name in ("JOB", "STEP"))
    return {
        "RANK": environment.get("SLURM_PROCID", "0"),
        "LOCAL_RANK": environment.get("SLURM_LOCALID", "0"),
        "WORLD_SIZE": tasks,
        "MASTER_ADDR": environment.get("MASTER_ADDR") or first_host(nodes),
        "MASTER_PORT": environment.get("MASTER_PORT") or str(PORTS[(61 * job + step) % len(PORTS)]),
    }


def first_host(nodes: str) -> str:
    """The first name of a SLURM host list: node003 of node[003-007,9],gpu1."""
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", nodes).split(",")[0]


def take_slurm() -> None:
    """Let this process and what it starts read SLURM's variables under torchrun's names."""
    os.environ.update(as_torchrun(os.environ))


def is_first_process() -> bool:
    """Whether this process is the first of its job, or alone, by torchrun's word (see `take_slurm`)."""
    return int(os.environ.get("RANK", "0")) == 0


def one_process(main: Callable[..., int]) -> Callable[..., int]:
    """For a command that works in one process: of the ranks of one job the first works, the others end at once."""

    @functools.wraps(main)
    def wrapped(*args, **kwargs) -> int:
        return main(*args, **kwargs) if is_first_process() else 0

    return wrapped
