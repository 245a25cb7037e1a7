"""Samples set apart: whole groups, a pure function of (seed, group), never trained on, and all others exactly once."""

import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mcl_clip.clustering.pseudo_labels import UserLabels
from mcl_clip.errors import UserError
from mcl_clip.plan.plan import make_plan
from mcl_clip.plan.policy import Policy
from mcl_clip.shards.apart import APART, UNGROUPED, Apart
from mcl_clip.shards.buckets import write_buckets
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.manifest import Manifest
from mcl_clip.shards.offsets import offsets_path
from mcl_clip.shards.verify import verify
from tests.distributed import run_ranks, world_of
from tests.tars import image_bytes, write_tar
from tests.tiny_runs import command
from training.main import main as train
from training.shards import main as shards

THIRD = Apart(share=0.3)


def write_twins(directory, shards=4, samples=30, captions=40):
    """Tars whose captions repeat, in other case and spacing too; `.json` has an artist, now and then none."""
    directory.mkdir()
    rng = np.random.default_rng(0)
    paths = []
    for shard in range(shards):
        files = []
        for sample in range(samples):
            key, caption = f"{shard}-{sample}", f"a drawing of {rng.integers(captions)}"
            text = [caption, f" {caption.upper()}\n", caption.replace(" ", "  ")][rng.integers(3)]
            record = {
                "artist": ["ann", 7, {"name": "bo"}, "", None][rng.integers(5)],
                "texts": [caption, f"other {key}"],
            }
            files.append((f"{key}.jpg", image_bytes(shard, sample, size=8)))
            files += [(f"{key}.txt", text.encode())] if sample else []
            files.append((f"{key}.json", json.dumps(record).encode()))
        paths.append(write_tar(directory / f"{shard:05d}.tar", files))
    return paths


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    return write_twins(tmp_path_factory.mktemp("twins") / "data")


def places(manifest, read):
    """What `read(rows, row)` gives of every row that is trained on, is set apart, failed."""
    found = ([], [], [])
    for shard in range(manifest.num_shards):
        rows = manifest.open_shard(shard)
        for row in range(len(rows.table)):
            side = 0 if row < rows.num_samples else 1 if row in rows.apart else 2
            found[side].append(read(rows, row))
    return found


def caption_of(rows, row):
    return " ".join((rows.read_caption(row) or "").casefold().split())


def artist_of(records):
    return lambda rows, row: json.dumps(records[rows.keys[row]]["artist"])


def test_no_caption_is_on_both_sides_and_every_sample_is_on_one(tars, tmp_path):
    whole = index_sources(tars, tmp_path / "whole")
    manifest = index_sources(tars, tmp_path / "index", apart=THIRD)
    trained, apart, failed = places(manifest, caption_of)
    assert set(trained) & set(apart) == set() and len(set(apart)) > 3 and len(apart) > len(set(apart))
    assert set(apart) == {caption for caption in trained + apart if THIRD.holds(caption)}
    assert Counter(trained + apart) == Counter(places(whole, caption_of)[0])
    assert (len(trained), len(apart), len(failed)) == (manifest.num_samples, manifest.num_apart, manifest.num_failed)
    assert manifest.num_failed == whole.num_failed == 4 and manifest.num_apart == sum(manifest.shard_apart)
    assert Manifest.load(tmp_path / "index").apart == THIRD and whole.apart is None
    assert manifest.info["apart"] == {"share": 0.3, "key": None, "seed": 0}
    assert manifest.left_out[APART]["count"] == manifest.num_apart and len(manifest.left_out[APART]["first"]) == 5
    assert Manifest.load(tmp_path / "index").hash == manifest.hash != whole.hash and "apart" not in whole.info
    assert verify(tmp_path / "index") == []


def test_groups_are_values_of_a_key_and_without_one_a_sample_is_trained_on(tars, tmp_path):
    manifest = index_sources(tars, tmp_path / "index", apart=Apart(share=0.5, key="artist", seed=1))
    records = {}
    for path in tars:
        with tarfile.open(path) as tar:
            records |= {m.name[:-5]: json.loads(tar.extractfile(m).read()) for m in tar if m.name.endswith(".json")}
    trained, apart, _ = places(manifest, artist_of(records))
    assert set(trained) & set(apart) == set() and apart
    without = sum(value in ('""', "null") for value in trained)
    assert manifest.left_out[UNGROUPED]["count"] == without > 0 and not {'""', "null"} & set(apart)


def test_of_several_captions_the_first_is_the_group(tars, tmp_path):
    manifest = index_sources(tars, tmp_path / "index", apart=THIRD, caption_key="texts")
    trained, apart, failed = places(manifest, caption_of)
    assert not failed and set(apart) == {caption for caption in trained + apart if THIRD.holds(caption)}


def test_the_share_is_about_that_of_the_groups_and_other_seeds_choose_others():
    groups = [f"caption {number}" for number in range(20_000)]
    chosen = {seed: {group for group in groups if Apart(share=0.05, seed=seed).holds(group)} for seed in range(3)}
    for found in chosen.values():
        assert abs(len(found) - 1000) < 5 * np.sqrt(1000)
    assert len(chosen[0] & chosen[1]) < 100
    larger = {group for group in groups if Apart(share=0.1).holds(group)}
    assert chosen[0] < larger


@pytest.mark.parametrize("index_only", [False, True])
def test_law_every_sample_not_set_apart_exactly_once_an_epoch_in_every_stage(tars, tmp_path, index_only):
    manifest = index_sources(tars, tmp_path / "index", apart=THIRD)
    rows = [manifest.open_shard(shard) for shard in range(manifest.num_shards)]
    table = {"shard": [], "key": [], "label": []}
    for each in rows:
        for number, key in enumerate(each.keys):
            for name, value in zip(table, (each.name, key, str(number % 2)), strict=True):
                table[name].append(value)
    pq.write_table(pa.table(table), tmp_path / "labels.parquet")
    buckets = write_buckets(
        manifest, UserLabels(tmp_path / "labels.parquet"), tmp_path / "buckets", index_only=index_only, shard_size=7
    )
    assert buckets.num_samples == manifest.num_samples
    assert buckets.left_out["without a label"]["count"] == manifest.num_failed
    expected = Counter(
        rows[shard].source_of(row) for shard in range(len(rows)) for row in range(rows[shard].num_samples)
    )
    for data in (manifest, buckets):
        plan = make_plan(
            data.label_paths, data.shard_label, data.shard_size, seed=0, stage=1, epoch=0, global_batch=8,
            policy=Policy(min_segment=2),
        )  # fmt: skip
        shards = [data.open_shard(shard) for shard in range(data.num_shards)]
        seen = Counter(shards[s].source_of(o) for t in range(len(plan)) for s, o in drawn(plan, t))
        padding = plan.num_padding
        assert seen.keys() == expected.keys() and sum(seen.values()) == sum(expected.values()) + padding


def drawn(plan, t):
    batch = plan[t]
    return zip(batch.shard.tolist(), batch.ordinal.tolist(), strict=True)


def _index_rank(rank, world_size, paths, directory):
    return index_sources(paths, directory, apart=THIRD, world=world_of(rank, world_size)).hash


def test_any_number_of_ranks_and_workers_and_a_killed_run_choose_the_same(tars, tmp_path):
    alone = index_sources(tars, tmp_path / "alone", apart=THIRD)
    assert run_ranks(_index_rank, 3, tars, str(tmp_path / "shared")) == [alone.hash] * 3
    text = (tmp_path / "alone/manifest.json").read_text()
    assert (tmp_path / "shared/manifest.json").read_text() == text
    assert index_sources(tars, tmp_path / "workers", apart=THIRD, workers=2).hash == alone.hash
    (tmp_path / "alone/manifest.json").unlink()
    offsets_path(tmp_path / "alone", 2).unlink()
    kept = offsets_path(tmp_path / "alone", 1).stat().st_ino
    index_sources(tars, tmp_path / "alone", apart=THIRD)
    assert (tmp_path / "alone/manifest.json").read_text() == text
    assert offsets_path(tmp_path / "alone", 1).stat().st_ino == kept
    # What an unfinished index of another share, group or seed left is not taken for this one's.
    (tmp_path / "alone/manifest.json").unlink()
    other = index_sources(tars, tmp_path / "alone", apart=Apart(share=0.3, seed=5))
    assert other.hash == index_sources(tars, tmp_path / "other", apart=Apart(share=0.3, seed=5)).hash != alone.hash
    (tmp_path / "alone/manifest.json").unlink()
    assert index_sources(tars, tmp_path / "alone").hash == index_sources(tars, tmp_path / "none").hash


def test_mistakes_are_named(tars, tmp_path):
    for share in (0, 1, -0.1, float("nan")):
        with pytest.raises(UserError, match="--mcl-fit-share"):
            Apart(share=share)
    index_sources(tars, tmp_path / "index", apart=THIRD)
    index_sources(tars, tmp_path / "index", apart=THIRD)
    for other in (None, Apart(share=0.3, key="artist"), Apart(share=0.3, seed=2), Apart(share=0.2)):
        with pytest.raises(UserError, match=r"sets apart 0.3 of the groups by caption, seed 0, not .*--mcl-fit-share"):
            index_sources(tars, tmp_path / "index", apart=other)
    files = [(f"{n}.{e}", image_bytes(0) if e == "jpg" else b"the same") for n in range(4) for e in ("jpg", "txt")]
    one = [write_tar(tmp_path / "one.tar", files)]
    with pytest.raises(UserError, match=r"all 4 samples .* are set apart: lower --mcl-fit-share"):
        index_sources(one, tmp_path / "all", apart=Apart(share=0.999))


def test_commands_say_what_they_set_apart_and_refuse_what_does_not_fit(tars, tmp_path, capsys):
    folder, index = str(Path(tars[0]).parent), tmp_path / "index"
    share = ["--mcl-fit-share", "0.3", "--mcl-fit-group", "artist"]
    assert (
        shards(["index", "--train-data", folder, "--output", str(index), *share, "--seed", "2", "--workers", "1"]) == 0
    )
    manifest = Manifest.load(index)
    assert manifest.apart == Apart(share=0.3, key="artist", seed=2)
    words = f"{manifest.num_apart} more set apart (0.3 of the groups by 'artist' of the .json, seed 2)"
    assert words in capsys.readouterr().out
    assert shards(["index", "--train-data", folder, "--output", str(index), "--mcl-fit-group", "artist"]) == 2
    assert "--mcl-fit-group needs --mcl-fit-share" in capsys.readouterr().err
    whole = index_sources(tars, tmp_path / "whole").directory
    fitted = ["--mcl-fusion", "fitted", "--mcl-stages", "1"]
    for data, flags, reason in (
        (index, ["--mcl-fit-share", "0.3"], "is indexed already and sets apart 0.3 of the groups by 'artist'"),
        (whole, ["--mcl-fit-share", "0.3"], "is indexed already and sets apart nothing; leave it out"),
        (whole, fitted, "sets none apart; index its tars with --mcl-fit-share, or give --val-data"),
        (folder, fitted, "--mcl-fusion fitted needs pairs that no stage is trained on"),
        (folder, ["--mcl-fit-group", "artist"], "needs --mcl-fit-share"),
        (folder, [*fitted, "--mcl-fit-share", "1"], "above 0 and below 1"),
    ):
        assert train([*command(tmp_path), "--train-data", str(data), *flags]) == 2
        assert reason in capsys.readouterr().err and not (tmp_path / "runs/run").exists()


def test_pairs_of_one_caption_are_refused_before_any_training(tmp_path, capsys):
    for name, captions in (("train", 40), ("val", 1)):
        (tmp_path / name).mkdir()
        files = [
            (f"{n}.{e}", image_bytes(n) if e == "jpg" else f"text {n % captions}".encode())
            for n in range(40)
            for e in ("jpg", "txt")
        ]
        write_tar(tmp_path / name / "0.tar", files)
    flags = ["--mcl-fusion", "fitted", "--mcl-stages", "1", "--val-data", str(tmp_path / "val")]
    assert train([*command(tmp_path), "--train-data", str(tmp_path / "train"), *flags]) == 2
    assert "--val-data has 40 pairs of one caption, 'text 0'" in capsys.readouterr().err
