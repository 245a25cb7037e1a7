"""Multinomial logistic regression on a device, along a path of strengths of its L2 penalty.

Minimises what scikit-learn's does for an inverse strength C: mean cross-entropy + |W|^2 / (2 C n), the intercept free.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_LOGITS = 1 << 25  # of a block of rows
MAX_ITERATIONS = 1000
TOLERANCE = 2e-5  # of the largest derivative; scikit-learn's is 1e-4, from zero for every strength


@dataclass(frozen=True)
class Classifier:
    """weights [D, classes], intercepts [classes]."""

    weights: Tensor
    intercepts: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """Classes int64 [n] of features [n, D]."""
        return torch.addmm(self.intercepts, features, self.weights).argmax(-1)


@torch.no_grad()
def fit(
    features: Tensor, labels: Tensor, classes: int, strengths: Sequence[float], tolerance: float = TOLERANCE
) -> Iterator[Classifier]:
    """A classifier for each inverse strength, on the features' device; each starts from the one before.

    features: fp32 [n, D]; labels: int64 [n]. L-BFGS in the principal axes of the features, each scaled by what the
    penalty and the curvature at zero make of it: there few iterations do.
    """
    problem = _Problem(features, labels, classes)
    weights = features.new_zeros(features.shape[1] + 1, classes)
    for strength in strengths:
        penalty = 1 / (len(features) * strength)
        scale = problem.scale(penalty)
        point = (weights / scale).requires_grad_()
        solver = torch.optim.LBFGS(
            [point], max_iter=MAX_ITERATIONS, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
        )

        def closure(point=point, scale=scale, penalty=penalty) -> Tensor:
            value, gradient = problem.value_and_gradient(point * scale, penalty)
            if gradient.abs().max() <= tolerance:
                raise _Reached  # at this point; a line search that is told nothing of it may go on, and get lost
            point.grad = gradient * scale
            return value

        with contextlib.suppress(_Reached):
            solver.step(closure)
        weights = point.detach() * scale
        yield problem.classifier(weights)


class _Reached(Exception):
    """A point within the tolerance."""


class _Problem:
    """The objective over weights [D + 1, classes] in the principal axes, the last row the intercepts."""

    def __init__(self, features: Tensor, labels: Tensor, classes: int):
        self.labels = labels
        self.mean = features.mean(0)
        centred = features - self.mean
        variance, axes = torch.linalg.eigh((centred.T @ centred).double() / len(features))
        self.axes = axes.float()
        self.rotated = centred @ self.axes
        several = max(classes, 2)  # with one class there is nothing to fit, and no curvature to divide by
        self._curvature = (1 - 1 / several) / several * torch.cat([variance.clamp_min(0), variance.new_ones(1)]).float()

    def scale(self, penalty: float) -> Tensor:
        """[D + 1, 1]: coordinates in which the curvature at zero is about one."""
        penalties = torch.full_like(self._curvature, penalty)
        penalties[-1] = 0
        return (self._curvature + penalties).rsqrt()[:, None]

    def value_and_gradient(self, weights: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
        """The objective, and its gradient in the same coordinates."""
        rows, inner = len(self.rotated), weights[:-1]
        value = penalty / 2 * inner.square().sum()
        gradient = torch.cat([penalty * inner, torch.zeros_like(weights[-1:])])
        block = max(1, MOST_LOGITS // weights.shape[1])
        for start in range(0, rows, block):
            part, own = self.rotated[start : start + block], self.labels[start : start + block, None]
            chances = torch.addmm(weights[-1], part, inner).log_softmax(-1)
            value -= chances.gather(-1, own).sum() / rows
            chances.exp_().scatter_add_(-1, own, chances.new_full(own.shape, -1))
            gradient[:-1].addmm_(part.T, chances, alpha=1 / rows)
            gradient[-1] += chances.sum(0) / rows
        return value, gradient

    def classifier(self, weights: Tensor) -> Classifier:
        """For features as they were given."""
        own = self.axes @ weights[:-1]
        return Classifier(own, weights[-1] - self.mean @ own)
