"""What SLURM's variables mean: a task of srun, or one process."""

import pytest

from mcl_clip.launch import ONE_PROCESS, as_torchrun, first_host, one_process

JOB = {"SLURM_JOB_ID": "700", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "n[1-2]"}
STEP = {"SLURM_STEP_ID": "3", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "n[07,09]", "SLURM_PROCID": "1"}


def test_a_task_of_srun_is_a_rank():
    found = as_torchrun(JOB | STEP | {"SLURM_LOCALID": "0"})
    assert found.pop("MASTER_PORT") == str(15_000 + (61 * 700 + 3) % 15_000)
    assert found == {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "n07"}
    chosen = {"MASTER_ADDR": "head", "MASTER_PORT": "4"}
    assert chosen.items() <= as_torchrun(JOB | STEP | chosen).items()


@pytest.mark.parametrize(
    "more", [{}, {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, STEP | {"SLURM_STEP_NUM_TASKS": "1"}]
)
def test_a_shell_a_script_and_a_lonely_task_are_one_process(more):
    assert as_torchrun(JOB | more) == ONE_PROCESS


def test_torchruns_word_stands_and_without_slurm_nothing_is_said():
    assert as_torchrun(JOB | STEP | {"WORLD_SIZE": "8"}) == {} == as_torchrun({"PATH": "/bin"})


@pytest.mark.parametrize(
    ("nodes", "first"), [("a", "a"), ("a,b", "a"), ("n[003-007,9],g1", "n003"), ("r[1-2]n[07,9]-ib", "r1n07-ib")]
)
def test_first_host(nodes, first):
    assert first_host(nodes) == first


def test_commands_of_one_process_run_on_the_first_rank_alone(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert one_process(lambda: pytest.fail("ran"))() == 0
    monkeypatch.setenv("RANK", "0")
    assert one_process(lambda: 7)() == 7
