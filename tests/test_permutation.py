"""The keyed permutation is a bijection, depends on its key, and looks uniform."""

from collections import Counter
from itertools import permutations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mcl_clip.plan.permutation import mix, permute

keys = st.integers(0, 2**64 - 1)


def whole(size, key):
    return permute(np.arange(size), np.full(size, size), np.full(size, key, np.uint64))


@given(st.integers(1, 5000), keys)
def test_bijection(size, key):
    assert np.array_equal(np.sort(whole(size, key)), np.arange(size))


@given(st.integers(1, 400), keys, st.data())
def test_pointwise_equals_whole(size, key, data):
    index = data.draw(st.integers(0, size - 1))
    assert permute(np.array([index]), np.array([size]), np.array([key], np.uint64))[0] == whole(size, key)[index]


def test_sizes_and_keys_may_differ_by_element():
    sizes, words = np.array([3, 3, 3, 100, 1]), np.array([5, 5, 5, 9, 2], np.uint64)
    together = permute(np.array([0, 1, 2, 99, 0]), sizes, words)
    assert sorted(together[:3]) == [0, 1, 2]
    assert together[3] == whole(100, 9)[99]
    assert together[4] == 0


def test_every_order_of_a_small_range_is_equally_likely():
    for size in (2, 3, 4):
        trials = 24_000
        words = mix(np.arange(trials, dtype=np.uint64))
        grid = permute(np.arange(size)[None], np.array(size), words[:, None])
        counts = Counter(map(tuple, grid.tolist()))
        orders = list(permutations(range(size)))
        expected = trials / len(orders)
        statistic = sum((counts[order] - expected) ** 2 / expected for order in orders)
        freedom = len(orders) - 1
        assert statistic < freedom + 4 * (2 * freedom) ** 0.5, (size, statistic)


def test_images_and_neighbours_are_uniform_over_keys():
    size, trials = 50, 20_000
    words = mix(np.arange(trials, dtype=np.uint64) + np.uint64(1))
    grid = permute(np.arange(size)[None], np.array(size), words[:, None])
    for values in (grid[:, 0], grid[:, 17], (grid[:, 1] - grid[:, 0]) % size - 1):
        cells = size if values is grid[:, 0] or values.max() == size - 1 else size - 1
        counts = np.bincount(values, minlength=cells)
        expected = trials / cells
        statistic = float(((counts - expected) ** 2 / expected).sum())
        assert statistic < cells - 1 + 4 * (2 * (cells - 1)) ** 0.5
