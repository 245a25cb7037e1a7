"""N ranks against one, and against open_clip in the same mode, in real gloo processes."""

import warnings
from unittest import mock

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss

from mcl_clip.loss import MCLClipLoss, MCLSigLipLoss, blocks, gather, loss_by_label
from mcl_clip.loss.statistics import identical_caption_share
from mcl_clip.plan.segments import SegmentLayout
from tests.distributed import once, run_ranks
from tests.slow_losses import (
    clip_by_loops,
    features,
    labels_of,
    masked_clip,
    siglip_by_loops,
    value_and_gradients,
)

SIZE, DIM, SCALE, BIAS = 16, 6, 11.0, -4.0
# Segments that cut across ranks, are cut by none, hold one sample, span three ranks.
LAYOUTS = [(16,), (5, 6, 1, 4), (3, 10, 3), (4, 4, 4, 4), (1, 1, 2, 2, 2, 7, 1)]
MODES = [(False, False), (True, False), (False, True), (True, True)]
# What fp32 may be off, and the rounding of gradients in half precision, summed over ranks.
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
GLOO_SCATTERS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 8)
CAPTIONS = torch.tensor([0, 1, 0, 0, 2, 2, 3, 4, 2, 3, 3, 5, 5, 6, 0, 6])


def inputs_of(rank: int, world_size: int, dtype: torch.dtype = torch.float64):
    own = slice(rank * SIZE // world_size, (rank + 1) * SIZE // world_size)
    image, text = (each.detach()[own].clone().requires_grad_() for each in features(SIZE, DIM, 7, dtype))
    scale, bias = (torch.tensor(each, dtype=torch.float64, requires_grad=True) for each in (SCALE, BIAS))
    return own, (image, text, scale, bias)


def every_case(rank: int, world_size: int) -> dict:
    """{case: [value, gradients]} of one rank, as numpy."""
    with mock.patch.object(blocks, "SHORTEST", 0.5):  # small layouts are padded too
        return cases(rank, world_size)


def cases(rank: int, world_size: int) -> dict:
    warnings.simplefilter("ignore", FutureWarning)  # open_clip's own use of torch.distributed.nn
    own, inputs = inputs_of(rank, world_size)
    image, text, scale, bias = inputs
    text_ids = CAPTIONS[own, None]
    place = {"rank": rank, "world_size": world_size}
    results = {}

    def record(case, loss, *inputs):
        results[case] = [each.double().numpy() for each in value_and_gradients(loss, *inputs)]

    for local_loss, gather_with_grad in MODES:
        mode = {"local_loss": local_loss, "gather_with_grad": gather_with_grad, **place}
        record(("open_clip", (local_loss, gather_with_grad)), ClipLoss(**mode)(*inputs[:3]), *inputs[:3])
        for lengths in LAYOUTS:
            layout, labels = SegmentLayout(lengths), torch.tensor(labels_of(lengths))
            case = (local_loss, gather_with_grad), lengths
            ours = MCLClipLoss(**mode, block_memory=8 * 20)(image, text, scale, segments=layout)
            record(("ours", *case), ours, *inputs[:3])
            record(("masked", *case), masked_clip(image, text, scale, labels, **mode), *inputs[:3])
            masking = MCLClipLoss(**mode, mask_identical=True)
            ours = masking(image, text, scale, segments=layout, text_ids=text_ids)
            record(("captions", *case), ours, *inputs[:3])
    for form in ("bidir", "shift", "gather", "reduce"):
        record(("open_clip", form), SigLipLoss(**place, dist_impl=form)(*inputs), *inputs)
    for dtype in ROUNDING:
        rounded = inputs_of(rank, world_size, dtype)[1]
        exact = tuple(each.detach().double().requires_grad_() for each in rounded)
        for mode in MODES:
            options = {**dict(zip(("local_loss", "gather_with_grad"), mode, strict=True)), **place}
            record(("ours", mode, dtype), MCLClipLoss(**options)(*rounded), *rounded[:3])
            record(("exact", mode, dtype), ClipLoss(**options)(*exact[:3]), *exact[:3])
        record(("ours", "sigmoid", dtype), MCLSigLipLoss(**place)(*rounded), *rounded)
        record(("exact", "sigmoid", dtype), SigLipLoss(**place, dist_impl="gather")(*exact), *exact)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for mode in MODES:
            strided = image.T.contiguous().T, torch.cat((text, text), 1)[:, DIM:]
            options = {**dict(zip(("local_loss", "gather_with_grad"), mode, strict=True)), **place}
            record(("strided", mode), MCLClipLoss(**options)(*strided, scale), *inputs[:3])
        record("gathered", weighted(gather.gather_with_gradient(image, world_size)), image)
    if GLOO_SCATTERS:
        with mock.patch.object(gather, "scatters_sums", return_value=True):
            record("reduce-scatter", MCLSigLipLoss(**place)(*inputs), *inputs)
            record("gathered, scattered", weighted(gather.gather_with_gradient(image, world_size)), image)
    for lengths in LAYOUTS:
        layout = SegmentLayout(lengths)
        ours = MCLSigLipLoss(**place, block_memory=8 * 20)(*inputs, segments=layout)
        record(("ours", "sigmoid", lengths), ours, *inputs)
        ours = MCLSigLipLoss(**place, mask_identical=True)(*inputs, segments=layout, text_ids=text_ids)
        record(("captions", "sigmoid", lengths), ours, *inputs)
        results["share", lengths] = identical_caption_share(layout, text_ids, world_size=world_size)
    labels = LABELS[own]
    for name, loss in (
        ("whole", MCLClipLoss(gather_with_grad=True, **place)),
        ("local", MCLClipLoss(local_loss=True, gather_with_grad=True, **place)),
        ("sigmoid", MCLSigLipLoss(**place)),
    ):
        ours = loss_by_label(image, text, labels, scale, bias, loss=loss)
        record(("by label", name), ours, *inputs)
    return results


WEIGHTS = torch.arange(SIZE * DIM, dtype=torch.float64).view(DIM, SIZE)


def weighted(gathered: torch.Tensor) -> torch.Tensor:
    """A sum whose gradient comes back transposed."""
    return (gathered.T * WEIGHTS).sum()


LABELS = torch.tensor([3, 0, 0, 8, 3, 3, 0, 8, 1, 3, 3, 0, 0, 8, 3, 0])


@once
def results(world_size: int) -> list[dict]:
    return run_ranks(every_case, world_size)


def averaged(world_size: int, case) -> list[torch.Tensor]:
    """What data-parallel training makes of it: values and scalars averaged, features by position over W."""
    value, image, text, *scalars = zip(*(rank[case] for rank in results(world_size)), strict=True)
    mean = [torch.tensor(sum(each) / world_size) for each in (value, *scalars)]
    positions = [torch.cat([torch.from_numpy(part) for part in each]) / world_size for each in (image, text)]
    return [mean[0], *positions, *mean[1:]]


def assert_all_close(ours, theirs):
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.as_tensor(mine), torch.as_tensor(reference), atol=1e-10, rtol=0)


worlds = pytest.mark.parametrize("world_size", [2, 4])
modes = pytest.mark.parametrize("mode", MODES, ids=["plain", "local", "grad", "local+grad"])
layouts = pytest.mark.parametrize("lengths", LAYOUTS, ids=str)


@worlds
@modes
def test_one_segment_equals_open_clip_on_every_rank(world_size, mode):
    for rank in results(world_size):
        assert_all_close(rank["ours", mode, (SIZE,)], rank["open_clip", mode])


@worlds
@pytest.mark.parametrize("mode", [*MODES, "sigmoid"], ids=["plain", "local", "grad", "local+grad", "sigmoid"])
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_lower_precision_is_off_by_its_rounding(world_size, mode, dtype):
    for rank in results(world_size):
        for mine, reference in zip(rank["ours", mode, dtype], rank["exact", mode, dtype], strict=True):
            assert abs(mine - reference).max() <= ROUNDING[dtype] * abs(reference).max()


@worlds
@pytest.mark.skipif(not GLOO_SCATTERS, reason="this torch's gloo cannot reduce-scatter, as NCCL does")
def test_the_sums_of_gradients_may_be_scattered(world_size):
    for rank in results(world_size):
        assert_all_close(rank["reduce-scatter"], rank["ours", "sigmoid", (SIZE,)])


@worlds
@modes
def test_strided_features_travel_without_a_warning(world_size, mode):
    for rank in results(world_size):
        assert_all_close(rank["strided", mode], rank["open_clip", mode])


@worlds
@pytest.mark.parametrize("case", ["gathered", "gathered, scattered"])
def test_each_rank_gets_the_sum_of_its_gradients(world_size, case):
    for number, rank in enumerate(results(world_size)):
        if case in rank:
            own = slice(number * SIZE // world_size, (number + 1) * SIZE // world_size)
            assert_all_close(rank[case][1:], [world_size * WEIGHTS.T[own]])
    assert all(case in rank for rank in results(world_size)) or not GLOO_SCATTERS


def test_collectives_are_given_contiguous_tensors(monkeypatch):
    # Of the backends only some take others.
    def all_gather(output, part):
        assert output.is_contiguous() and part.is_contiguous()
        output.copy_(torch.cat((part, part)))

    def reduce_scatter(output, parts):
        assert output.is_contiguous() and parts.is_contiguous()
        output.copy_(parts.chunk(2)[1])

    monkeypatch.setattr(gather, "_all_gather", all_gather)
    monkeypatch.setattr(gather, "_reduce_scatter", reduce_scatter)
    monkeypatch.setattr(gather, "scatters_sums", lambda device: True)
    local = torch.arange(SIZE * DIM / 2, dtype=torch.float64).view(DIM, SIZE // 2).T.requires_grad_()
    gathered = gather.gather_with_gradient(local, 2)
    assert torch.equal(gathered, torch.cat((local, local)))
    weighted(gathered).backward()
    assert torch.equal(local.grad, WEIGHTS.T[SIZE // 2 :])


@worlds
@modes
@layouts
def test_many_segments_equal_the_masked_matrix_of_the_same_mode(world_size, mode, lengths):
    for rank in results(world_size):
        assert_all_close(rank["ours", mode, lengths], rank["masked", mode, lengths])


@worlds
@pytest.mark.parametrize("local_loss", [False, True])
@pytest.mark.parametrize("kind", ["ours", "captions"])
@layouts
def test_ranks_that_gather_with_grad_equal_one(world_size, local_loss, kind, lengths):
    _, inputs = inputs_of(0, 1)
    captions = CAPTIONS.tolist() if kind == "captions" else None
    one = clip_by_loops(*inputs[:3], labels_of(lengths), captions)
    ranks = averaged(world_size, (kind, (local_loss, True), lengths))
    assert_all_close(ranks, value_and_gradients(one, *inputs[:3]))


@worlds
@modes
@layouts
def test_masking_captions_gives_the_same_value_in_every_mode(world_size, mode, lengths):
    _, inputs = inputs_of(0, 1)
    one = clip_by_loops(*inputs[:3], labels_of(lengths), CAPTIONS.tolist())
    assert_all_close(averaged(world_size, ("captions", mode, lengths))[:1], [one.detach()])


@worlds
@pytest.mark.parametrize("form", ["bidir", "shift", "gather", "reduce"])
def test_the_sigmoid_form_equals_each_of_open_clips(world_size, form):
    for rank in results(world_size):
        assert_all_close(rank["ours", "sigmoid", (SIZE,)], rank["open_clip", form])


@worlds
@pytest.mark.parametrize("kind", ["ours", "captions"])
@layouts
def test_ranks_of_the_sigmoid_form_equal_one(world_size, kind, lengths):
    _, inputs = inputs_of(0, 1)
    one = siglip_by_loops(*inputs, labels_of(lengths), CAPTIONS.tolist() if kind == "captions" else None)
    ranks = averaged(world_size, (kind, "sigmoid", lengths))
    assert_all_close(ranks, value_and_gradients(one, *inputs))


@worlds
@pytest.mark.parametrize("form", ["whole", "local", "sigmoid"])
def test_labels_may_be_scattered_over_the_ranks(world_size, form):
    _, inputs = inputs_of(0, 1)
    if form == "sigmoid":
        one = siglip_by_loops(*inputs, LABELS.tolist())
    else:
        one = clip_by_loops(*inputs[:3], LABELS.tolist()) + 0 * inputs[3]
    assert_all_close(averaged(world_size, ("by label", form)), value_and_gradients(one, *inputs))


def test_labels_over_ranks_need_gradients_that_travel():
    image, text = features(4, 3, 0)
    with pytest.raises(ValueError, match="gather_with_grad=True"):
        loss_by_label(image, text, torch.zeros(4), 1.0, loss=MCLClipLoss(world_size=2))


@worlds
@layouts
def test_the_share_of_identical_captions_counts_over_ranks(world_size, lengths):
    labels = labels_of(lengths)
    keys = list(zip(labels, CAPTIONS.tolist(), strict=True))
    expected = sum(keys.count(key) > 1 for key in keys) / SIZE
    assert [rank["share", lengths] for rank in results(world_size)] == [expected] * world_size
