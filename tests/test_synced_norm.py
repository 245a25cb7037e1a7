"""BatchNorm over ranks on a CPU against one process's over the whole batch."""

import numpy as np
import pytest
import torch
from torch import nn

from mcl_clip.errors import UserError
from mcl_clip.models.synced_norm import synced
from tests.distributed import run_ranks


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5), nn.BatchNorm1d(5)
        return nn.Sequential(*layers).double()


def images():
    return torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 100


def trained(model, batch, weight):
    """Outputs, gradients of parameters, and statistics after two steps and an evaluation."""
    for _ in range(2):
        output = model(batch)
    (output * weight).sum().backward()
    gradients = [parameter.grad.numpy() for parameter in model.parameters()]
    statistics = [buffer.numpy().copy() for buffer in model.buffers()]
    return output.detach().numpy(), gradients, statistics, model.eval()(batch).detach().numpy()


def weights():
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def of_rank(rank, world_size):
    own = slice(rank * 6 // world_size, (rank + 1) * 6 // world_size)
    model = network()
    names = list(model.state_dict())
    model = synced(model, torch.device("cpu"))
    assert list(model.state_dict()) == names
    return trained(model, images()[own], weights()[own])


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_normalise_as_one_process(world_size):
    output, gradients, statistics, evaluated = trained(network(), images(), weights())
    ranks = run_ranks(of_rank, world_size)
    np.testing.assert_allclose(np.concatenate([rank[0] for rank in ranks]), output, atol=1e-9)
    np.testing.assert_allclose(np.concatenate([rank[3] for rank in ranks]), evaluated, atol=1e-9)
    for index, gradient in enumerate(gradients):
        np.testing.assert_allclose(sum(rank[1][index] for rank in ranks), gradient, atol=1e-8)
    for rank in ranks:
        for ours, theirs in zip(rank[2], statistics, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_other_norms_are_refused_on_a_cpu():
    class Other(nn.BatchNorm2d):
        pass

    with pytest.raises(UserError, match="Other cannot be synchronised"):
        synced(nn.Sequential(Other(3)), torch.device("cpu"))
