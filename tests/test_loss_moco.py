"""MoCo's loss: against lightly with one label, a slow twin with several, and real ranks."""

import numpy as np
import pytest
import torch
from lightly.loss import NTXentLoss

from mcl_clip.loss import MCLMoCoLoss
from mcl_clip.loss.missing import loss_without
from mcl_clip.plan.segments import SegmentLayout
from tests.distributed import run_ranks
from tests.slow_losses import features, value_and_gradients

DIM, SIZES, QUEUE = 6, (40, 20, 0, 4), 16
BATCHES = [((8,), (0,)), ((5, 3), (1, 0)), ((2, 6), (3, 1)), ((8,), (0,)), ((1, 4, 3), (3, 1, 0))]


def batch(number: int):
    return features(8, DIM, 10 + number)


def by_loops(temperature: float):
    """Losses and query gradients of the batches, the queues as lists of keys with the newest last."""
    queues: dict[int, list] = {label: [] for label in range(len(SIZES))}
    found = []
    for number, (lengths, labels) in enumerate(BATCHES):
        queries, keys = batch(number)
        of = [label for label, length in zip(labels, lengths, strict=True) for _ in range(length)]
        total = torch.zeros((), dtype=torch.float64)
        for query, key, label in zip(queries, keys.detach(), of, strict=True):
            candidates = [key, *queues[label]]
            scores = torch.stack([torch.exp(query @ each / temperature) for each in candidates])
            total = total - torch.log(scores[0] / scores.sum())
        found.append(value_and_gradients(total / len(of), queries))
        for key, label in zip(keys.detach(), of, strict=True):
            capacity = max(1, QUEUE * SIZES[label] // sum(SIZES))
            queues[label] = [*queues[label], key][-capacity:]
    return found


def test_one_label_is_lightlys_loss_with_a_memory_bank():
    ours, theirs = MCLMoCoLoss(DIM, [100], queue=24, temperature=0.2), NTXentLoss(0.2, memory_bank_size=(24, DIM))
    for number in range(5):
        queries, keys = batch(number)
        value, gradient = value_and_gradients(ours(queries, keys.detach()), queries)
        expected, other = value_and_gradients(theirs(queries.float(), keys.detach().float()), queries)
        if number >= 3:  # their bank starts with random keys, ours empty
            torch.testing.assert_close(value, expected.double(), atol=1e-5, rtol=0)
            across = gradient - (gradient * queries).sum(1, keepdim=True) * queries
            torch.testing.assert_close(across, other, atol=1e-5, rtol=0)


def test_queues_hold_the_newest_keys_of_their_own_label():
    loss = MCLMoCoLoss(DIM, SIZES, queue=QUEUE, temperature=0.3).double()
    assert loss.capacities == [10, 5, 0, 1]
    for number, ((lengths, labels), expected) in enumerate(zip(BATCHES, by_loops(0.3), strict=True)):
        queries, keys = batch(number)
        value = loss(queries, keys, segments=SegmentLayout(lengths, labels))
        for mine, reference in zip(value_and_gradients(value, queries), expected, strict=True):
            torch.testing.assert_close(mine, reference, atol=1e-12, rtol=0)


def test_a_loss_that_is_loaded_goes_on_as_the_one_that_was_saved():
    whole, saved = (MCLMoCoLoss(DIM, SIZES, queue=QUEUE) for _ in range(2))
    values = []
    for number, (lengths, labels) in enumerate(BATCHES):
        queries, keys = batch(number)
        values.append(whole(queries, keys, segments=SegmentLayout(lengths, labels)))
        if number == 2:
            saved.load_state_dict(whole.state_dict())
            before = saved.keys.clone()
            saved.eval()(queries, keys, segments=SegmentLayout(lengths, labels))
            assert torch.equal(saved.keys, before)  # evaluation takes nothing in
            saved.train()
        elif number > 2:
            assert torch.equal(saved(queries, keys, segments=SegmentLayout(lengths, labels)), values[-1])
    assert torch.equal(saved.keys, whole.keys)


def test_positions_without_a_sample_are_no_keys():
    loss = MCLMoCoLoss(DIM, SIZES, queue=QUEUE)
    queries, keys = batch(0)
    loss_without((1, 6), loss, queries=queries, keys=keys, segments=SegmentLayout((5, 3), (1, 0)))
    assert loss.taken == [2, 4, 0, 0]
    torch.testing.assert_close(loss.negatives(0), keys.detach().float()[[5, 7]])


def of_rank(rank, world_size):
    own = slice(rank * 8 // world_size, (rank + 1) * 8 // world_size)
    loss = MCLMoCoLoss(DIM, SIZES, queue=QUEUE, temperature=0.3, rank=rank, world_size=world_size).double()
    found = []
    for number, (lengths, labels) in enumerate(BATCHES):
        queries, keys = (each.detach()[own].clone().requires_grad_() for each in batch(number))
        value = loss(queries, keys, segments=SegmentLayout(lengths, labels))
        found.append([each.numpy() for each in value_and_gradients(value, queries)])
    return found


def test_ranks_equal_one_process():
    ranks = run_ranks(of_rank, 2)
    for number, (value, gradient) in enumerate(by_loops(0.3)):
        assert np.mean([rank[number][0] for rank in ranks]) == pytest.approx(value.item(), abs=1e-12)
        averaged = np.concatenate([rank[number][1] for rank in ranks]) / 2
        np.testing.assert_allclose(averaged, gradient, atol=1e-12)
