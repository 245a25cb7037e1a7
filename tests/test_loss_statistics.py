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
    first = data.draw(st.integers(0, size - 1))
    text_ids = torch.tensor([[caption, 5, caption] for caption in captions])
    seen = list(zip(labels_of(lengths), captions, strict=True))[first:]
    expected = sum(seen.count(key) > 1 for key in seen) / len(seen)
    layout = SegmentLayout(tuple(lengths))
    assert identical_caption_share(layout, text_ids[first:], first) == pytest.approx(expected)


def test_caption_ids_tell_captions_apart():
    tokens = torch.cartesian_prod(torch.arange(40), torch.arange(40), torch.arange(40))
    tokens = torch.cat((tokens, tokens * 1024, tokens + 49000)).unique(dim=0)
    assert len(caption_ids(tokens, len(tokens)).unique()) == len(tokens)
    assert torch.equal(caption_ids(tokens.int(), len(tokens)), caption_ids(tokens, len(tokens)))
