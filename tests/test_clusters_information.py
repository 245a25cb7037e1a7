import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import adjusted_rand_score, mutual_info_score, normalized_mutual_info_score

from mcl_clip.clustering.information import (
    adjusted_rand_index,
    agreement,
    attribute_information,
    contingency,
    entropy_bits,
    information,
)
from mcl_clip.clustering.reservoir import choose, hash_limit, key_hashes, smallest
from mcl_clip.errors import UserError
from tests.clusters import write_clusters

LABELS = st.integers(1, 60).flatmap(lambda n: st.tuples(*[arrays(np.int32, n, elements=st.integers(0, 4))] * 2))


@given(LABELS)
def test_agrees_with_scikit_learn(labels):
    a, b = labels
    table = contingency(a, b, (5, 5))
    found = information(table)
    assert found["bits"] == pytest.approx(mutual_info_score(a, b) / np.log(2), abs=1e-9)
    assert found["normalized"] == pytest.approx(normalized_mutual_info_score(a, b), abs=1e-9)
    assert found["new_bits"] == pytest.approx(entropy_bits(table.sum(0)) - found["bits"], abs=1e-9)
    assert adjusted_rand_index(table) == pytest.approx(adjusted_rand_score(a, b), abs=1e-9)


def test_contingency_leaves_failed_samples_out():
    table = contingency(np.array([0, -1, 1, 1]), np.array([1, 1, -1, 0]), (2, 2))
    assert table.tolist() == [[0, 1], [1, 0]]


def test_attribute_information_separates_what_clusters_follow_from_what_they_ignore(tmp_path):
    labels = {"s": {f"{i:03d}": i % 2 for i in range(64)} | {"bad": None}}
    clusters = write_clusters(tmp_path / "clusters", labels, k=2)
    attributes = {("s", f"{i:03d}"): {"shape": "ab"[i % 2], "color": (i // 2) % 4} for i in range(64)}
    attributes[("s", "bad")] = {"shape": "c", "color": 9}
    attributes[("elsewhere", "000")] = {"shape": "d"}
    found = attribute_information(clusters, attributes)
    assert found["shape"] == {"bits": 1.0, "normalized": 1.0, "new_bits": 0.0}
    assert found["color"] == {"bits": 0.0, "normalized": 0.0, "new_bits": 1.0}


def test_agreement_needs_the_same_data(tmp_path):
    labels = {"s": {"a": 0, "b": 0, "c": 1, "d": 1}, "t": {"a": 1, "b": None}}
    renamed = {"s": {"a": 1, "b": 1, "c": 0, "d": 0}, "t": {"a": 0, "b": 0}}
    first = write_clusters(tmp_path / "first", labels)
    assert agreement(first, write_clusters(tmp_path / "renamed", renamed)) == 1
    with pytest.raises(UserError, match="different data"):
        agreement(first, write_clusters(tmp_path / "other", labels, data_hash="other"))


@given(st.integers(0, 2**31), st.integers(1, 400), st.integers(1, 4000))
def test_a_reservoir_never_exceeds_its_capacity_and_ignores_the_order(seed, capacity, num_samples):
    keys = [f"{key:06d}" for key in range(num_samples)]
    hashes = key_hashes("00000", keys, seed)
    chosen = choose(hashes, hash_limit(num_samples, capacity))
    if num_samples <= capacity:
        assert chosen.tolist() == list(range(num_samples))
        return
    kept = chosen[smallest(hashes[chosen], capacity)]
    assert len(kept) <= capacity
    backwards = key_hashes("00000", keys[::-1], seed)[::-1]
    assert np.array_equal(hashes, backwards)
    assert set(hashes[kept]) == set(np.sort(hashes)[: len(kept)])


def test_the_reservoir_is_nearly_full_and_differs_by_shard_and_seed():
    keys = [f"{key:06d}" for key in range(40_000)]
    count = len(choose(key_hashes("00000", keys, 0), hash_limit(40_000, 10_000)))
    assert 9_200 < count <= 10_000
    assert not set(key_hashes("00000", keys, 0)) & set(key_hashes("00001", keys, 0))
    assert not set(key_hashes("00000", keys, 0)) & set(key_hashes("00000", keys, 1))
