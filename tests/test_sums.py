"""Sums over runs of label files against a loop over samples; any ranks and kills give the same bytes."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mcl_clip.clustering import stage, sums
from mcl_clip.clustering.clusters import LabelRows, labels_path, write_labels
from mcl_clip.clustering.job import Job, Settings
from mcl_clip.clustering.stage import add_up, commit
from mcl_clip.clustering.sums import EXAMPLES, read_run, runs, sum_run
from mcl_clip.errors import UserError
from mcl_clip.shards.index import index_sources
from tests.distributed import run_ranks, world_of
from tests.tars import write_shards

K, EARLIER = 3, 2


@given(st.integers(1, 3_000_000))
def test_runs_cover_all_shards_in_order_and_are_few(num_shards):
    found = runs(num_shards)
    assert [run.start for run in found] == [0, *(run.stop for run in found[:-1])] and found[-1].stop == num_shards
    assert len(found) <= sums.MOST and all(len(run) >= sums.LEAST for run in found[:-1])


def write_stage(directory, rows, seed):
    """Label files of random clusters with failures and ties; {(shard, key): (cluster, distance)}."""
    random, truth = np.random.Generator(np.random.Philox(seed)), {}
    for ordinal, count in enumerate(rows):
        shard, keys = f"s{ordinal}", [f"k{row}" for row in range(count)]
        cluster = random.integers(-1, K, count).astype(np.int32)
        distance = np.where(cluster < 0, np.nan, random.integers(0, 40, count) / 20).astype(np.float32)
        write_labels(labels_path(directory, ordinal), shard, LabelRows(keys, cluster, distance))
        for key, label, far in zip(keys, cluster.tolist(), distance.tolist(), strict=True):
            truth[shard, key] = (label, far)
    return truth


@given(rows=st.lists(st.integers(0, 60), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_a_run_is_what_a_loop_over_its_samples_finds(tmp_path_factory, rows, seed):
    directory = tmp_path_factory.mktemp("labels")
    truth = write_stage(directory, rows, seed)
    shards = [f"s{ordinal}" for ordinal in range(len(rows))]
    labels = read_run([labels_path(directory, ordinal) for ordinal in range(len(rows))], shards)
    earlier = np.random.Generator(np.random.Philox(seed)).integers(-1, EARLIER, sum(rows)).astype(np.int32)
    apart = [range(count // 2, count // 2) for count in rows]
    arrays, facts = sum_run(labels, [earlier], apart, [EARLIER, K], 2.0, seed)
    pairs = Counter(zip(earlier.tolist(), (cluster for cluster, _ in truth.values()), strict=True))
    assert arrays["table_0"].tolist() == [[pairs[a, b] for b in range(K)] for a in range(EARLIER)]
    assert arrays["samples"].tolist() == rows
    failed = [list(name) for name, (cluster, _) in truth.items() if cluster < 0]
    assert [list(name) for name in facts["failed"]] == failed and arrays["failed"].sum() == len(failed)
    for cluster in range(K):
        own = sorted((distance, *name) for name, (label, distance) in truth.items() if label == cluster)
        assert facts["nearest"][cluster] == own[:EXAMPLES]
        assert arrays["histogram"][cluster].sum() == len(own)
        assert arrays["distance_sum"][cluster] == pytest.approx(sum(entry[0] for entry in own))
        chosen = [tuple(name) for _, *name in facts["random"][cluster]]
        assert len(chosen) == min(EXAMPLES, len(own)) and all(truth[name][0] == cluster for name in chosen)


def test_what_is_set_apart_has_not_failed(tmp_path):
    rows = LabelRows(["a", "b", "c"], np.array([1, -1, -1], np.int32), np.array([0.5, np.nan, np.nan], np.float32))
    write_labels(labels_path(tmp_path, 0), "s", rows)
    labels = read_run([labels_path(tmp_path, 0)], ["s"])
    arrays, facts = sum_run(labels, [], [range(1, 2)], [2], 2.0, 0)
    assert facts["failed"] == [("s", "c")] and arrays["samples"].tolist() == [2] and facts["apart"] == 1


def test_labels_of_another_shard_and_broken_ones_are_refused(tmp_path):
    write_stage(tmp_path, [3, 3], 0)
    with pytest.raises(UserError, match=r"labels of shard 's0' cannot be read: it holds those of 's1'"):
        read_run([labels_path(tmp_path, 1)], ["s0"])
    labels_path(tmp_path, 0).write_bytes(b"PAR1")
    with pytest.raises(UserError, match="labels of shard 's0' cannot be read"):
        read_run([labels_path(tmp_path, 0)], ["s0"])


def job_of(out, index, world=None):
    return Job(
        out=out, manifest=index, settings=Settings(k=K), model_hash="m", previous=[], load_encoder=lambda: None,
        **({"world": world} if world else {}),
    )  # fmt: skip


def prepare(out, index):
    """A directory in which all is labelled and nothing summed up."""
    random = np.random.Generator(np.random.Philox(5))
    out.mkdir()
    for ordinal, shard in enumerate(index.shard_names):
        keys = index.open_shard(ordinal).keys
        cluster = random.integers(0, K, len(keys)).astype(np.int32)
        write_labels(labels_path(out, ordinal), shard, LabelRows(keys, cluster, random.random(len(keys), np.float32)))
    save_file({"image": np.eye(K, dtype=np.float32)}, out / "centroids.safetensors", metadata={"fit": "{}"})


def _summed(rank, world_size, out, index):
    sums.LEAST = 2
    job = job_of(out, index, world_of(rank, world_size))
    job.together(add_up)
    job.together(commit, alone=True)


def test_ranks_and_kills_give_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(sums, "LEAST", 2)
    index = index_sources(write_shards(tmp_path / "data", 7, 15), tmp_path / "index")
    for name in ("alone", "ranks", "killed"):
        prepare(tmp_path / name, index)
    alone = job_of(tmp_path / "alone", index)
    add_up(alone)
    assert len(list((tmp_path / "alone/sums").rglob("*.safetensors"))) == 4
    commit(alone)
    assert not (tmp_path / "alone/sums").exists()
    run_ranks(_summed, 3, tmp_path / "ranks", index)

    killed, write = job_of(tmp_path / "killed", index), stage.write_run
    done = []

    def die(path, *what):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(path)
        write(path, *what)

    monkeypatch.setattr(stage, "write_run", die)
    with pytest.raises(KeyboardInterrupt):
        add_up(killed)
    times = {path: path.stat().st_mtime_ns for path in done}
    monkeypatch.setattr(stage, "write_run", write)
    add_up(killed)
    assert {path: path.stat().st_mtime_ns for path in done} == times
    commit(killed)
    texts = {name: (tmp_path / name / "clusters.json").read_text() for name in ("alone", "ranks", "killed")}
    assert texts["alone"] == texts["ranks"] == texts["killed"]
    info = json.loads(texts["alone"])
    assert info["samples"] == sum(info["sizes"]) == 105
