"""What --train-data names is opened or indexed by one rule, whichever command asks."""

import pandas
import pytest

from mcl_clip.shards.index import index_sources
from tests.tars import write_shards
from tests.tiny_runs import command
from training import cluster, main, shards


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Tars with captions of both kinds, and a directory in which they are indexed with those of `.txt`."""
    directory = tmp_path_factory.mktemp("data")
    tars = write_shards(directory / "tars", 2, 20, with_json=True)
    index_sources(tars, directory / "index")
    pandas.DataFrame({"shard": ["00000"], "key": ["000000000"], "label": ["0"]}).to_parquet(
        directory / "labels.parquet"
    )
    return directory


def of_each_command(data, *arguments):
    """By command: its `main`, and a command line that reads the indexed directory."""
    flags = ["--train-data", f"{data}/index", *arguments]
    made = [*flags, "--output", f"{data}/out"]
    return {
        "mcl-train": (main.main, command(data, *flags)),
        "mcl-cluster": (cluster.main, ["no-model", *made, "--device", "cpu"]),
        "mcl-shards": (shards.main, ["bucket", *made, "--labels", f"{data}/labels.parquet"]),
    }


@pytest.mark.parametrize("program", ["mcl-train", "mcl-cluster", "mcl-shards"])
def test_a_caption_key_for_a_directory_that_is_indexed_is_refused(data, capfd, program):
    run, arguments = of_each_command(data, "--mcl-caption-key", "caption")[program]
    assert run(arguments) == 2
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: --mcl-caption-key caption is for tars") and "captions from .txt" in line
    assert not (data / "runs/run").exists()


def test_the_caption_key_that_it_was_indexed_with_is_not(data, capfd):
    tars = sorted(str(tar) for tar in (data / "tars").glob("*.tar"))
    index_sources(tars, data / "by_json", caption_key="caption")
    arguments = command(data, "--train-data", f"{data}/by_json", "--mcl-caption-key", "caption", "--epochs", "1")
    assert main.main(arguments) == 0


@pytest.mark.parametrize("spelling", ["--mcl-caption-key", "--caption-key"])
def test_the_old_spelling_is_an_alias(data, capfd, spelling):
    out = data / f"out{spelling}"
    flags = ["--train-data", f"{data}/tars", "--output", str(out), spelling, "caption", "--workers", "1"]
    assert shards.main(["index", *flags]) == 0
    assert "40 samples in 2 shards" in capfd.readouterr().out
