"""Small pseudo-labels join their parent's pool, large ones are never touched."""

from hypothesis import given
from hypothesis import strategies as st

from mcl_clip.plan.backoff import back_off

trees = st.dictionaries(
    st.lists(st.integers(0, 2), min_size=1, max_size=3).map(lambda path: "/".join(map(str, path))),
    st.sampled_from([0, 1, 3, 9, 10, 11, 50]),
    min_size=1,
)


def members(result, paths):
    groups = {}
    for path, effective in zip(paths, result.effective, strict=True):
        groups.setdefault(int(effective), []).append(path)
    return groups


def test_siblings_then_grandparent_then_root():
    sizes = {"0/0": 100, "0/1": 4, "0/2": 7, "1/0": 5, "1/1": 60, "2/0": 6}
    result = back_off(list(sizes), list(sizes.values()), 10)
    named = {path: result.names[effective] for path, effective in zip(sizes, result.effective, strict=True)}
    assert named == {"0/0": "0/0", "0/1": "0/*", "0/2": "0/*", "1/0": "*", "1/1": "1/1", "2/0": "*"}
    assert (result.moved_labels, result.moved_samples, result.lone_samples) == (4, 22, 0)


def test_a_root_pool_that_stays_too_small_is_counted():
    result = back_off(["0/0", "1/0"], [100, 4], 10)
    assert result.names[result.effective[1]] == "*"
    assert result.lone_samples == 4


@given(trees)
def test_laws(sizes):
    minimum, paths = 10, list(sizes)
    result = back_off(paths, list(sizes.values()), minimum)
    assert (result.effective < len(result.names)).all()
    for effective, group in members(result, paths).items():
        total = sum(sizes[path] for path in group)
        name = result.names[effective]
        if len(group) == 1 and name == group[0]:
            assert total == 0 or total >= minimum
        else:
            parent = name.removesuffix("*")
            assert all(0 < sizes[path] < minimum and path.startswith(parent) for path in group)
            assert total >= minimum or parent == ""
    moved = [path for path in paths if 0 < sizes[path] < minimum]
    assert result.moved_labels == len(moved)
    assert result.moved_samples == sum(sizes[path] for path in moved)


@given(trees)
def test_the_order_of_the_labels_does_not_matter(sizes):
    paths = list(sizes)
    forward = back_off(paths, [sizes[path] for path in paths], 10)
    backward = back_off(paths[::-1], [sizes[path] for path in paths[::-1]], 10)
    for path, effective in zip(paths, forward.effective, strict=True):
        assert forward.names[effective] == backward.names[backward.effective[::-1][paths.index(path)]]
