"""Projection heads: what is between a backbone's features and the loss of two views, and dropped after training."""

from torch import Tensor, nn

KINDS = ("simclr", "moco")


class Projection(nn.Module):
    """Features [B, width] to [B, dim] by one hidden layer of `width`.

    simclr: without biases, BatchNorm after both layers (lightly's SimCLRProjectionHead, names and all); moco: biases,
    no BatchNorm (MoCo v2's). So ResNet-18 has 512-512-128.
    """

    def __init__(self, kind: str, width: int, dim: int = 128) -> None:
        super().__init__()
        assert kind in KINDS
        if kind == "simclr":
            first, second = nn.Linear(width, width, bias=False), nn.Linear(width, dim, bias=False)
            self.layers = nn.Sequential(first, nn.BatchNorm1d(width), nn.ReLU(), second, nn.BatchNorm1d(dim))
        else:
            self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)
