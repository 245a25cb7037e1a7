"""mcl-shards as a user runs it, alone and on several ranks."""

import os
from functools import partial

import pandas
import pytest

from mcl_clip.shards.manifest import Manifest
from tests.jobs import finish, run_job, start
from tests.tars import image_bytes, write_shards
from training.shards import main


@pytest.fixture
def data(tmp_path):
    paths = write_shards(tmp_path / "data", 3, 6, no_caption=[(0, 2)])
    rows = [(f"{shard:05d}", f"{shard:05d}{sample:04d}", str(sample % 3)) for shard in range(3) for sample in range(6)]
    pandas.DataFrame(rows, columns=["shard", "key", "label"]).to_parquet(tmp_path / "labels.parquet")
    return tmp_path, paths


def run(capsys, *arguments):
    """(exit status, stdout, last line of stderr)."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as end:
        status = end.code
    printed = capsys.readouterr()
    return status, printed.out, (printed.err.strip().splitlines() or [""])[-1]


def test_index_bucket_and_verify(data, capsys):
    folder, paths = data
    status, out, _ = run(capsys, "index", "--train-data", folder / "data", "--output", folder / "index")
    assert (status, "17 samples in 3 shards, 1 without" in out) == (0, True)
    for extra in ([], ["--mcl-index-only"]):
        target = folder / f"buckets{len(extra)}"
        command = ["bucket", "--train-data", folder / "index", "--labels", folder / "labels.parquet", *extra]
        status, out, _ = run(capsys, *command, "--output", target, "--mcl-shard-size", 4)
        assert (status, "17 samples of 3 labels in 6 shards, 1 without label left out" in out) == (0, True)
    status, out, _ = run(capsys, "verify", folder / "index", folder / "buckets0", folder / "buckets1")
    assert (status, out.count("all is well")) == (0, 3)
    os.truncate(paths[1], 1024)
    status, out, _ = run(capsys, "verify", folder / "index")
    assert status == 1 and "00001.tar has 1024 bytes" in out


def test_tars_are_indexed_on_the_way_to_buckets(data, capsys):
    folder, _ = data
    command = ["bucket", "--train-data", f"{folder}/data/{{00000..00002}}.tar", "--output", folder / "out"]
    status, _, _ = run(capsys, *command, "--labels", folder / "labels.parquet", "--workers", 1)
    assert status == 0
    assert Manifest.load(folder / "out-source").kind == "source"
    assert Manifest.load(folder / "out").label_paths == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("index --train-data {d}/data/{{0..1}}.tar --output {d}/i", "--train-data"),
        (
            "bucket --train-data {d}/data --labels {d}/none.parquet --output {d}/b",
            "none.parquet does not exist",
        ),
        ("bucket --train-data {d}/data --clusters {d}/none --output {d}/b", "no finished clusters"),
        (
            "bucket --train-data {d}/data --labels {d}/labels.parquet --output {d}/b --shard-size 0",
            "--mcl-shard-size",
        ),
        (
            "bucket --train-data {d}/data --labels {d}/labels.parquet --output {d}/b --mcl-resize 8 --mcl-index-only",
            "--mcl-index-only",
        ),
        (
            "bucket --train-data {d}/data --labels {d}/labels.parquet --output {d}/b --mcl-resize-quality 80",
            "needs --mcl-resize",
        ),
        ("verify {d}", "no finished index"),
        ("index --train-data {d}/data --output {d}/labels.parquet", "labels.parquet cannot be written to"),
        (
            "bucket --train-data {d}/data --labels {d}/labels.parquet --output {d}/labels.parquet --index {d}/i",
            "labels.parquet cannot be written to",
        ),
        ("index --train-data {d}/data --output {d}/i --workers -1", "--workers -1"),
    ],
)
def test_mistakes_end_in_one_line(data, capsys, arguments, reason):
    folder, _ = data
    status, _, line = run(capsys, *arguments.format(d=folder).split())
    assert status == 2
    assert line.startswith("error: ") and reason in line


@pytest.mark.parametrize("flag", ["--mcl-caption-key", "--index"])
def test_flags_without_effect_on_an_index_are_refused(data, capsys, flag):
    folder, _ = data
    assert run(capsys, "index", "--train-data", folder / "data", "--output", folder / "index")[0] == 0
    command = ["bucket", "--train-data", folder / "index", "--labels", folder / "labels.parquet"]
    status, _, line = run(capsys, *command, "--output", folder / "b", flag, "x")
    assert (status, line.startswith(f"error: {flag} ") and "is for tars" in line) == (2, True)


def test_the_same_command_with_relative_paths_finds_its_work_done(data, capsys, monkeypatch):
    monkeypatch.chdir(data[0])
    assert run(capsys, "index", "--train-data", "data", "--output", "data")[0] == 0
    command = ["bucket", "--train-data", "data", "--labels", "labels.parquet", "--output", "b", "--mcl-index-only"]
    first, again = run(capsys, *command), run(capsys, *command)
    assert first[0] == again[0] == 0 and first[1] == again[1]


def test_pictures_are_resized_on_the_way(data, capsys):
    folder, _ = data
    command = [
        "bucket",
        "--train-data",
        folder / "data",
        "--labels",
        folder / "labels.parquet",
        "--output",
        folder / "b",
    ]
    status, out, _ = run(capsys, *command, "--mcl-resize", 8, "--workers", 1)
    assert (status, "17 pictures resized" in out and "; 0 copied" in out) == (0, True)
    status, _, line = run(capsys, *command, "--workers", 1)
    assert (status, "another resize" in line) == (2, True)


def two_ranks(log, *arguments):
    """Exit statuses of the command on two ranks, and what they said."""
    return run_job(list(map(str, arguments)), log, 2, module="training.shards"), log.read_text()


def test_a_mistake_that_only_another_rank_meets_is_said_once(data):
    folder, paths = data
    os.truncate(paths[2], 1024)
    command = ["index", "--train-data", folder / "data", "--output", folder / "index"]
    status, said = two_ranks(folder / "log", *command)
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "00002.tar: truncated" in lines[0] and status == [2, 2]


def test_ranks_share_the_work(data, capsys):
    folder, _ = data
    common = ["--train-data", f"{folder}/data", "--labels", f"{folder}/labels.parquet", "--shard-size", "4"]
    assert run(capsys, "bucket", *common, "--output", folder / "alone")[0] == 0
    assert two_ranks(folder / "log", "bucket", *common, "--output", folder / "shared")[0] == [0, 0]
    assert Manifest.load(folder / "shared").hash == Manifest.load(folder / "alone").hash


def test_pack_alone_and_on_two_ranks_gives_the_same_bytes(data, capsys):
    folder, _ = data
    rows = ["filepath,title"]
    for number in range(7):
        (folder / f"{number}.jpg").write_bytes(image_bytes(number))
        rows.append(f"{number}.jpg,caption {number}")
    (folder / "t.csv").write_text("\n".join([*rows, "gone.jpg,none"]))
    flags = [
        folder / "t.csv",
        "--csv-separator",
        ",",
        "--mcl-shard-size",
        2,
        "--workers",
        1,
        "--compute-hash",
        "sha256",
    ]
    status, out, _ = run(capsys, "pack", *flags, "--output", folder / "alone")
    assert (status, "7 samples in 4 shards, 1 rows skipped: 1 no such file (gone.jpg)" in out) == (0, True)
    assert two_ranks(folder / "log", "pack", *flags, "--output", folder / "shared")[0] == [0, 0]
    alone, shared = (
        {path.name: path.read_bytes() for path in (folder / name).iterdir()} for name in ("alone", "shared")
    )
    assert alone == shared and len(alone) == 13
    status, _, line = run(capsys, "pack", folder / "t.csv", "--output", folder / "other")
    assert (status, "add --csv-separator ','" in line, (folder / "other").exists()) == (2, True, False)


def test_tasks_of_srun_are_ranks_of_one_job_and_a_script_of_sbatch_is_one_process(data, capsys):
    folder, _ = data
    command = ["index", "--train-data", f"{folder}/data", "--output"]
    script = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "127.0.0.1"}
    step = script | {"SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "2"}
    places = [("srun", step | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}) for rank in range(2)]
    places.append(("sbatch", script | {"SLURM_PROCID": "0"}))
    logs = [folder / f"log {number}" for number in range(3)]
    tasks = [
        start([*command, f"{folder}/{name}"], log, before=partial(_set, place), module="training.shards")
        for (name, place), log in zip(places, logs, strict=True)
    ]
    assert [finish(task) for task in tasks] == [0, 0, 0]
    said = ["17 samples in 3 shards" in log.read_text() for log in logs]
    assert said == [True, False, True], "the first rank alone speaks"
    assert (folder / "srun/manifest.json").read_text() == (folder / "sbatch/manifest.json").read_text()


def _set(environment, _):
    os.environ.update(environment)
