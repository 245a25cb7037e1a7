"""An index of images alone: samples need no captions, which another index leaves out and counts."""

import pytest

from mcl_clip.errors import UserError
from mcl_clip.shards.buckets import write_buckets
from mcl_clip.shards.captions import NO_CAPTIONS
from mcl_clip.shards.index import index_sources
from mcl_clip.shards.verify import verify
from tests.tars import write_shards
from tests.test_buckets import HashLabels


@pytest.fixture
def tars(tmp_path):
    return write_shards(tmp_path / "tars", 2, 6, no_caption=[(0, 1), (1, 0), (1, 3)], no_image=[(0, 2)])


def test_samples_without_captions_are_taken(tars, tmp_path):
    images = index_sources(tars, tmp_path / "images", caption_key=NO_CAPTIONS)
    pairs = index_sources(tars, tmp_path / "pairs")
    assert (images.num_samples, images.num_failed, images.has_captions) == (11, 1, False)
    assert (pairs.num_samples, pairs.num_failed, pairs.has_captions) == (8, 4, True)
    assert images.left_out == {"without an image": {"count": 1, "first": ["00000/000000002"]}}
    assert pairs.left_out["without a caption"]["count"] == 3
    assert images.hash != pairs.hash
    rows = images.open_shard(0)
    assert sorted(rows.keys[: len(rows)]) == [f"00000000{sample}" for sample in (0, 1, 3, 4, 5)]
    assert rows.read_caption(0) is None and rows.read_image(0)
    assert verify(tmp_path / "images") == []


def test_one_index_is_not_taken_for_the_other(tars, tmp_path):
    index_sources(tars, tmp_path / "index", caption_key=NO_CAPTIONS)
    assert index_sources(tars, tmp_path / "index", caption_key=NO_CAPTIONS).num_samples == 11
    with pytest.raises(UserError, match=r"takes captions from nowhere, not \.txt"):
        index_sources(tars, tmp_path / "index")


def test_buckets_hold_the_samples_without_captions(tars, tmp_path):
    source = index_sources(tars, tmp_path / "index", caption_key=NO_CAPTIONS)
    buckets = write_buckets(source, HashLabels(1), tmp_path / "buckets")
    expected = [HashLabels().label(*rows.source_of(row)) for rows in map(source.open_shard, (0, 1))
                for row in range(len(rows))]  # fmt: skip
    assert buckets.num_samples == sum(label is not None for label in expected) and not buckets.has_captions
