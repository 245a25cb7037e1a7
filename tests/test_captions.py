"""Of several captions one is drawn, by a word that is the sample's own."""

from collections import Counter
from random import Random

import numpy as np
import pytest

from mcl_clip.shards.buckets import write_buckets
from mcl_clip.shards.captions import draw_caption, first_caption, read_captions
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.tar import header
from mcl_clip.shards.verify import verify
from tests.tars import image_bytes, write_tar


@pytest.mark.parametrize(
    ("data", "key", "caption"),
    [
        (b"a caption", None, "a caption"),
        ("é".encode(), None, "é"),
        (b"\xff!", None, "�!"),
        (b"", None, None),
        (b" \n", None, None),
        (b'{"c": "x"}', "c", "x"),
        (b'{"c": ""}', "c", None),
        (b'{"c": 3}', "c", None),
        (b"{}", "c", None),
        (b"[]", "c", None),
        (b"", "c", None),
        (b"[" * 100_000, "c", None),
        (b'{"c": "half \\ud83d"}', "c", "half ?"),
    ],
)
def test_captions(data, key, caption):
    captions = read_captions(data, key)
    assert first_caption(captions) == draw_caption(captions, 2**64 - 1) == caption


@pytest.mark.parametrize(
    ("key", "captions"),
    [
        ("c", [["one", "two"]]),
        ("short;c", [["s"], ["one", "two"]]),
        ("none; c", [[], ["one", "two"]]),
        ("mixed;short", [["x"], ["s"]]),
    ],
)
def test_lists_and_several_keys(key, captions):
    data = b'{"c": ["one", "two"], "short": "s", "mixed": [1, "x", " ", null], "none": ""}'
    assert read_captions(data, key) == captions


def words(count: int) -> list[int]:
    return np.random.default_rng(0).integers(0, 2**64, count, dtype=np.uint64, endpoint=False).tolist()


def shares(captions, probs=None, count=20_000) -> dict[str, float]:
    found = Counter(draw_caption(captions, word, probs) for word in words(count))
    return {caption: times / count for caption, times in found.items()}


def open_clips_draw(captions, probs, random: Random) -> str:
    """What open_clip 4 does: keys in an order drawn by weight without replacement, then those of weight 0."""
    weights = list(probs) + [0.0] * (len(captions) - len(probs))
    left = [index for index, weight in enumerate(weights) if weight > 0]
    order = []
    while left:
        order.append(random.choices(left, [weights[index] for index in left])[0])
        left.remove(order[-1])
    order += [index for index, weight in enumerate(weights) if weight <= 0]
    return next(captions[index][0] for index in order if captions[index])


@pytest.mark.parametrize(
    ("captions", "probs"),
    [
        ([["a"], ["b"], ["c"]], [1, 2, 1]),
        ([["a"], ["b"], ["c"]], [3, 1]),
        ([["a"], [], ["c"], ["d"]], [1, 5, 3]),
        ([["a"], [], ["c"]], [0, 1]),
        ([[], ["b"], ["c"]], [1]),
    ],
)
def test_the_draw_has_the_distribution_of_open_clips(captions, probs):
    random, count = Random(0), 20_000
    twin = Counter(open_clips_draw(captions, probs, random) for _ in range(count))
    ours = shares(captions, probs, count)
    assert ours.keys() == twin.keys()
    assert all(abs(ours[caption] - twin[caption] / count) < 0.02 for caption in twin)


def test_without_weights_the_first_key_that_has_any_gives_all():
    assert shares([[], ["a", "b", "c"], ["d"]]).keys() == {"a", "b", "c"}
    assert all(abs(share - 1 / 3) < 0.02 for share in shares([["a", "b", "c"]]).values())
    assert draw_caption([[], []], 5) is first_caption([[], []]) is None


def numbered_tar(path):
    """Two samples: numbered captions of a name with dots, among them a blank and a hidden file, and a plain one."""
    files = [(f"v2.0 a.{number}.txt", f"number {number}".encode()) for number in (0, 1, 10, 2)]
    files[2:2] = [("._v2.0 a.1.txt", b"macOS"), ("v2.0 a.7.txt", b" ")]
    files += [("v2.0 a.jpg", image_bytes(0)), ("b.0.txt", b"other"), ("b.jpg", image_bytes(1))]
    return write_tar(path, [*files, ("b.txt", b"x" * 1024)])


class OneLabel:
    """Of every sample."""

    hash = "one"

    def labels_for(self, shard, keys, *, partial=False):
        return ["0"] * len(keys)

    def check_shards(self, shards):
        pass


def test_numbered_captions_are_drawn_from_also_out_of_buckets(tmp_path):
    manifest = index_sources([numbered_tar(tmp_path / "0.tar")], tmp_path / "index")
    assert manifest.num_samples == 2 and not manifest.left_out
    buckets = write_buckets(manifest, OneLabel(), tmp_path / "buckets")
    assert verify(buckets.directory) == []
    for data in (manifest, buckets):
        rows = data.open_shard(0)
        drawn = {row: {rows.draw_caption(row, word << 20) for word in range(1 << 12)} for row in range(2)}
        [named] = [row for row in range(2) if rows.source_of(row)[1] == "v2.0 a"]
        assert drawn.pop(named) == {"number 0", "number 1", "number 2", "number 10"}
        assert rows.read_caption(named) == "number 0"
        assert list(drawn.values()) == [{"x" * 1024}]


def test_a_broken_piece_of_a_tar_is_a_caption_like_any_other():
    piece = b"".join((header("a.0.txt", 5), b"hello", bytes(507)))
    assert read_captions(piece, None) == [["hello"]]
    assert read_captions(piece[:-1], None) != [["hello"]]
    broken = b"b" + piece[1:]
    assert read_captions(broken, None) == [[broken.decode()]]
