import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcl_clip.loss.captions import caption_ids
from mcl_clip.loss.statistics import identical_caption_share, negatives
from mcl_clip.plan.segments import SegmentLayout
from tests.slow_losses import labels_of

lengths = st.lists(st.integers(1, 6), min_size=1, max_size=6)


@given(lengths)
def test_negatives_are_the_other_samples_of_the_segment(lengths):
    labels = labels_of(lengths)
    counts = [labels.count(label) - 1 for label in labels]
    assert negatives(SegmentLayout(tuple(lengths))) == {
        "negatives_min": min(counts),
        "negatives_mean": pytest.approx(sum(counts) / len(counts)),
        "share_without_negatives": pytest.approx(counts.count(0) / len(counts)),
        "segments": len(lengths),
    }


@given(lengths, st.data())
def test_identical_captions_count_inside_segments_only(lengths, data):
    size = sum(lengths)
    captions = data.draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
    text_ids = torch.tensor([[caption, 5, caption] for caption in captions])
    keys = list(zip(labels_of(lengths), captions, strict=True))
    expected = sum(keys.count(key) > 1 for key in keys) / size
    assert identical_caption_share(SegmentLayout(tuple(lengths)), text_ids) == pytest.approx(expected)


def test_captions_of_another_batch_are_refused():
    with pytest.raises(ValueError, match=r"5 captions over 1 ranks .* 6 positions"):
        identical_caption_share(SegmentLayout((2, 4)), torch.zeros(5, 3))


def test_caption_ids_tell_captions_apart():
    tokens = torch.cartesian_prod(torch.arange(40), torch.arange(40), torch.arange(40))
    tokens = torch.cat((tokens, tokens * 1024, tokens + 49000)).unique(dim=0)
    assert len(caption_ids(tokens, len(tokens)).unique()) == len(tokens)
    assert torch.equal(caption_ids(tokens.int(), len(tokens)), caption_ids(tokens, len(tokens)))
