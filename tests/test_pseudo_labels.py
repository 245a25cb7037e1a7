import itertools
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mcl_clip.clustering.clusters import Clusters, labels_path
from mcl_clip.clustering.pseudo_labels import PseudoLabels, UserLabels
from mcl_clip.errors import UserError
from tests.clusters import write_clusters

FIRST = {"00000": {"a": 0, "b": 0, "c": 1, "d": 1}, "00001": {"a": 2, "b": None}}
SECOND = {"00000": {"a": 5, "b": 6, "c": 5, "d": 6}, "00001": {"a": 5, "b": 6}}


@pytest.fixture
def stages(tmp_path: Path) -> list[Path]:
    first = write_clusters(tmp_path / "stage_0", FIRST)
    return [first, write_clusters(tmp_path / "stage_1", SECOND, previous=[first], model_hash="model 1")]


def test_folds_all_preceding_stages_and_not_only_the_last(stages):
    # The stages disagree: a, c are together in stage 1 only, a, b in stage 0 only. Nobody shares both.
    labels = PseudoLabels(stages)
    assert labels.labels_for("00000", ["a", "b", "c", "d"]) == ["0/5", "0/6", "1/5", "1/6"]
    assert PseudoLabels(stages[:1]).labels_for("00000", ["a", "b", "c", "d"]) == ["0", "0", "1", "1"]


def test_two_samples_share_a_label_exactly_when_they_share_every_cluster(tmp_path):
    rows = list(itertools.product([None, 0, 1, 2], repeat=3))
    keys = [f"{row:03d}" for row in range(len(rows))]
    directories: list[Path] = []
    for stage in range(3):
        column = {"s": dict(zip(keys, [row[stage] for row in rows], strict=True))}
        directories.append(write_clusters(tmp_path / str(stage), column, previous=directories))
    found = PseudoLabels(directories).labels_for("s", keys)
    for i, a in enumerate(rows):
        assert (found[i] is None) == (None in a)
        for j, b in enumerate(rows):
            if found[i] is not None:
                assert (found[i] == found[j]) == (a == b)


def test_labels_follow_keys_in_any_order_and_failures_of_any_stage_have_none(stages):
    labels = PseudoLabels(stages)
    assert labels.labels_for("00000", ["d", "a", "c", "b"]) == ["1/6", "0/5", "1/5", "0/6"]
    assert labels.labels_for("00001", ["b", "a"]) == [None, "2/5"]
    assert labels.labels_for("00000", ["c"], partial=True) == ["1/5"]


@pytest.mark.parametrize(("keys", "name"), [(["a", "b", "c"], "'d'"), (["a", "b", "c", "d", "e"], "'e'")])
def test_a_surplus_or_missing_key_is_named(stages, tmp_path, keys, name):
    with pytest.raises(UserError, match=name):
        PseudoLabels(stages).labels_for("00000", keys)
    with pytest.raises(UserError, match=name):
        UserLabels(user_file(tmp_path / "user.parquet", FIRST)).labels_for("00000", keys)


def test_unknown_shards_are_named(stages, tmp_path):
    user = UserLabels(user_file(tmp_path / "user.parquet", FIRST))
    for labels in (PseudoLabels(stages), user):
        labels.check_shards(["00000", "00001", "00002"])
        with pytest.raises(UserError, match="'00001'"):
            labels.check_shards(["00000"])
    with pytest.raises(UserError, match="'elsewhere'"):
        PseudoLabels(stages).labels_for("elsewhere", ["a"])
    with pytest.raises(UserError, match="'a'"):
        user.labels_for("elsewhere", ["a"])


def test_refuses_other_data_and_a_broken_chain(stages, tmp_path):
    first, second = stages
    with pytest.raises(UserError, match="not stage 0 after nothing"):
        PseudoLabels([second])
    with pytest.raises(UserError, match="not stage 1"):
        PseudoLabels([first, first])
    elsewhere = write_clusters(tmp_path / "elsewhere", FIRST, data_hash="other")
    with pytest.raises(UserError, match="other data"):
        PseudoLabels([elsewhere, second])
    other_base = write_clusters(tmp_path / "base", FIRST, model_hash="another base")
    with pytest.raises(UserError, match=r"not stage 1.*--previous"):
        PseudoLabels([other_base, second])
    with pytest.raises(UserError, match="at least one"):
        PseudoLabels([])


def test_hash_changes_with_any_label(stages, tmp_path):
    hashes = {PseudoLabels(stages).hash, PseudoLabels(stages[:1]).hash}
    changed = {**FIRST, "00001": {"a": 3, "b": None}}
    hashes.add(PseudoLabels([write_clusters(tmp_path / "changed", changed)]).hash)
    assert len(hashes) == 3 and PseudoLabels(stages).hash in hashes


def test_changed_unfinished_and_foreign_files_are_refused(stages):
    first = stages[0]
    info = json.loads((first / "clusters.json").read_text())
    (first / "clusters.json").write_text(json.dumps({**info, "data_hash": "forged"}))
    with pytest.raises(UserError, match="changed after it was made"):
        Clusters.load(first)
    (first / "clusters.json").write_text(json.dumps({**info, "version": 99}))
    with pytest.raises(UserError, match="not of"):
        Clusters.load(first)
    (first / "clusters.json").unlink()
    with pytest.raises(UserError, match="no finished clusters"):
        PseudoLabels(stages)


def test_a_label_file_of_another_shard_or_a_broken_one_is_refused(stages):
    first = stages[0]
    labels_path(first, 0).write_bytes(labels_path(first, 1).read_bytes())
    with pytest.raises(UserError, match="holds labels of shard '00001'"):
        Clusters.load(first).labels_of("00000")
    labels_path(first, 0).write_bytes(b"not parquet")
    with pytest.raises(UserError, match="cannot be read"):
        Clusters.load(first).labels_of("00000")


def user_file(path: Path, labels: dict) -> Path:
    rows = [(shard, key, label) for shard, keys in labels.items() for key, label in keys.items()]
    columns = dict(zip(("shard", "key", "label"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns), path)
    return path


def test_user_labels_may_be_text_numbers_or_null(tmp_path):
    named = {"00000": {"x": "cats/tabby", "y": None, "z": "dogs"}}
    labels = UserLabels(user_file(tmp_path / "named.parquet", named))
    assert labels.labels_for("00000", ["z", "y", "x"]) == ["dogs", None, "cats/tabby"]
    numbers = UserLabels(user_file(tmp_path / "numbers.parquet", FIRST))
    assert numbers.labels_for("00001", ["a", "b"]) == ["2", None]
    assert labels.hash != numbers.hash


def test_user_labels_with_a_key_twice_are_refused(tmp_path):
    table = pa.table({"shard": ["s", "s"], "key": ["a", "a"], "label": ["x", "y"]})
    pq.write_table(table, tmp_path / "twice.parquet")
    with pytest.raises(UserError, match=r"'a'.*twice"):
        UserLabels(tmp_path / "twice.parquet").labels_for("s", ["a"])


def test_user_labels_that_are_no_labels_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        UserLabels(tmp_path / "nothing.parquet")
    (tmp_path / "text.parquet").write_text("shard,key,label")
    with pytest.raises(UserError, match="not a parquet file"):
        UserLabels(tmp_path / "text.parquet")
    pq.write_table(pa.table({"shard": ["s"], "key": ["a"]}), tmp_path / "columns.parquet")
    with pytest.raises(UserError, match="no column label"):
        UserLabels(tmp_path / "columns.parquet")
