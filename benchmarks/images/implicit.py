"""Implicit feature modification (Robinson et al., NeurIPS 2021, arXiv 2106.11230) of NT-Xent."""

import torch
from torch import Tensor, nn


class ModifiedNTXent(nn.Module):
    """The mean of NT-Xent and of NT-Xent whose positive cosine is `epsilon` less, and its negative ones `epsilon` more.

    The paper's equation 5 and its mean with the plain loss; what it adds to a logit is epsilon / temperature.
    """

    def __init__(self, epsilon: float, temperature: float) -> None:
        super().__init__()
        self.epsilon, self.temperature = epsilon, temperature

    def forward(self, first_views: Tensor, second_views: Tensor) -> Tensor:
        """The loss of one batch of unit vectors [B, D], a scalar; every other image is a negative."""
        views = torch.cat((first_views, second_views))
        cosine = views @ views.T
        cosine = cosine.masked_fill(torch.eye(len(views), dtype=torch.bool, device=views.device), -torch.inf)
        positive = torch.arange(len(views), device=views.device).roll(len(first_views))
        harder = (cosine + self.epsilon).scatter_add(
            1, positive[:, None], torch.full_like(cosine[:, :1], -2 * self.epsilon)
        )
        losses = [nn.functional.cross_entropy(each / self.temperature, positive) for each in (cosine, harder)]
        return (losses[0] + losses[1]) / 2
