"""What --train-data names is opened or indexed by one rule, whichever command asks."""

import json

import datasets
import pandas
import pytest

from mcl_clip.shards.index import index_sources
from mcl_clip.shards.manifest import Manifest
from tests.tars import image_bytes, write_shards, write_tar
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


def write_csv(folder, count=40):
    """A CSV as open_clip's defaults have it, and its images."""
    folder.mkdir()
    rows = [(f"{number}.jpg", f"caption {number}") for number in range(count)]
    for number, (name, _) in enumerate(rows):
        (folder / name).write_bytes(image_bytes(number, size=24))
    pandas.DataFrame(rows, columns=["filepath", "title"]).to_csv(folder / "x.tsv", sep="\t", index=False)
    return folder / "x.tsv"


@pytest.mark.parametrize("kind", ["csv", "auto"])
def test_a_csv_is_packed_into_the_run_and_trained_on(tmp_path, capfd, kind):
    table = write_csv(tmp_path / "data")
    flags = ["--train-data", str(table), "--dataset-type", kind, "--val-data", str(table), "--epochs", "1"]
    assert main.main(command(tmp_path, *flags)) == 0
    assert "40 samples in 1 shards, no row skipped" in capfd.readouterr().err
    source = Manifest.load(tmp_path / "runs/run/source")
    assert source.num_samples == 40 and source.open_shard(0).read_caption(7) == "caption 7"
    assert Manifest.load(tmp_path / "runs/run/validation").num_samples == 40
    assert main.main(command(tmp_path, *flags)) == 0
    with open(table, "a") as file:
        file.write("0.jpg\tone more\n")
    assert main.main(command(tmp_path, *flags)) == 2
    assert "the source as it was then" in capfd.readouterr().err


def test_a_folder_of_datasets_is_packed_into_the_run(tmp_path):
    cells = [{"bytes": image_bytes(number, size=24), "path": None} for number in range(32)]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    data = {"image": cells, "text": [f"caption {number}" for number in range(32)]}
    datasets.Dataset.from_dict(data, features).save_to_disk(tmp_path / "saved")
    assert main.main(command(tmp_path, "--train-data", str(tmp_path / "saved"), "--epochs", "1")) == 0
    assert Manifest.load(tmp_path / "runs/run/source").open_shard(0).read_caption(31) == "caption 31"


def test_synthetic_data_goes_through_the_same_loader(tmp_path, capfd):
    flags = ["--dataset-type", "synthetic", "--train-num-samples", "32", "--epochs", "1"]
    assert main.main(command(tmp_path, *flags)) == 2
    assert "leave --train-data out" in capfd.readouterr().err
    arguments = command(tmp_path, *flags)
    del arguments[:2]
    assert main.main(arguments) == 0
    assert Manifest.load(tmp_path / "runs/run/source").num_samples == 32


@pytest.mark.parametrize(
    ("name", "flags", "reason"),
    [
        ("x.tsv", ["--dataset-type", "webdataset"], "is a table: mcl-shards pack"),
        ("x.parquet", [], "is parquet: mcl-shards pack"),
        ("tars", ["--dataset-type", "csv"], "leave --dataset-type csv out"),
    ],
)
def test_another_kind_of_file_is_told_what_takes_it(tmp_path, capfd, name, flags, reason):
    (tmp_path / "x.tsv").write_text("filepath\ttitle\n")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    assert main.main(command(tmp_path, "--train-data", str(tmp_path / name), *flags)) == 2
    assert reason in capfd.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "runs/run").exists()


def test_several_captions_are_drawn_from_by_open_clips_flags(tmp_path, capfd):
    files = []
    for number in range(32):
        captions = {"long": [f"thing {number}", f"object {number}"], "short": f"thing {number}"}
        files += [(f"{number}.jpg", image_bytes(number)), (f"{number}.json", json.dumps(captions).encode())]
    (tmp_path / "data").mkdir()
    write_tar(tmp_path / "data" / "0.tar", files)
    data = ["--train-data", str(tmp_path / "data"), "--epochs", "1"]
    keys = ["--json-text-key", "none;short;long"]
    for flags, reason in {
        ("--json-text-key-probs", "1"): "--mcl-caption-probs needs --mcl-caption-key",
        (*keys, "--json-text-key-probs", "1", "1", "1", "1"): "has 4 weights, but --mcl-caption-key 3 fields",
        (*keys, "--json-text-key-probs", "0"): "one is above 0",
    }.items():
        assert main.main(command(tmp_path, *data, *flags)) == 2
        assert reason in capfd.readouterr().err.strip().splitlines()[-1]
    flags = [*keys, "--json-text-key-probs", "1", "2", "0.5", "--mcl-mask-identical"]
    assert main.main(command(tmp_path, *data, *flags)) == 0
    recipe = (tmp_path / "runs/run/recipe.yaml").read_text()
    assert "caption_key: none;short;long" in recipe and "- 0.5" in recipe
    assert Manifest.load(tmp_path / "runs/run/source").num_samples == 32
    assert main.main(["--config", str(tmp_path / "runs/run/recipe.yaml"), "--name", "again"]) == 0


def test_upsampling_factors_are_repeat_counts_of_sources_in_every_stage(data, tmp_path):
    more = write_shards(tmp_path / "more", 1, 16, seed=7)[0]
    flags = ["--train-data", f"{data}/tars::{more}", "--train-data-upsampling-factors", "1::3", "--epochs", "1"]
    assert main.main(command(tmp_path, *flags, "--mcl-stages", "1", "--mcl-clusters", "2")) == 0
    run = tmp_path / "runs/run"
    assert Manifest.load(run / "source").shard_repeats.tolist() == [1, 1, 3]
    assert "train_data_upsampling_factors: 1::3" in (run / "recipe.yaml").read_text()
    buckets = Manifest.load(run / "stage_1/buckets")
    taken = int((buckets.shard_size * buckets.shard_repeats).sum())
    assert (buckets.num_samples, taken) == (56, 40 + 3 * 16)
    told = json.loads((run / "stage_1/left_out.json").read_text())["plan"]
    assert told["taken again (--train-data-upsampling-factors)"]["count"] == 2 * 16


@pytest.mark.parametrize(
    ("factors", "source", "words"),
    [
        ("1.5", "tars", "give a whole number from 1 to 1000 for each source"),
        ("2::1", "tars", "has 2 numbers, --train-data 1 sources"),
        ("2", "index", "is for tars, but --train-data"),
    ],
)
def test_upsampling_factors_that_say_nothing_exact_are_refused(data, tmp_path, capfd, factors, source, words):
    flags = ["--train-data", f"{data}/{source}", "--train-data-upsampling-factors", factors, "--epochs", "1"]
    assert main.main(command(tmp_path, *flags)) == 2
    line = capfd.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f"error: --train-data-upsampling-factors {factors}") and words in line
    assert not (tmp_path / "runs/run").exists()
