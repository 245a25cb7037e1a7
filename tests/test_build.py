"""How a model is compiled: mode and backend reach torch.compile, and what it does not know is named."""

import pytest
import torch
from torch import nn

from mcl_clip.errors import UserError
from training import flags
from training.build import compiled
from training.resolve import resolve

COMMON = ["--train-data", "data", "--model", "ViT-B-32", "--name", "run", "--torchcompile"]


def recipe(*arguments):
    """The optimization part of a recipe."""
    return resolve(flags.parse([*COMMON, *arguments]), {}, name="run", world_size=1).optimization


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ([], {}),
        (["--torchcompile-mode", "reduce-overhead"], {"mode": "reduce-overhead"}),
        (["--torchcompile-backend", "eager"], {"backend": "eager"}),
    ],
)
def test_mode_and_backend_reach_torch_compile(monkeypatch, arguments, given):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda model, **options: calls.append(options) or model)
    compiled(nn.Linear(2, 2), recipe(*arguments))
    assert calls == [given]


@pytest.mark.parametrize("arguments", [["--torchcompile-backend", "abacus"], ["--torchcompile-mode", "fastest"]])
def test_what_torch_compile_does_not_know_is_named(arguments):
    with pytest.raises(UserError, match=" ".join(arguments)):
        compiled(nn.Linear(2, 2), recipe(*arguments))


def test_the_eager_backend_computes_the_same():
    model = nn.Linear(2, 2)
    result = compiled(model, recipe("--torchcompile-backend", "eager"))(torch.ones(1, 2))
    assert torch.equal(result, model(torch.ones(1, 2)))
