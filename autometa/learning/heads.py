"""Classifiers on fixed features, fitted to a labelled set in closed form or by a few written-out steps.

Symbols: B tasks, M labelled images, P images to score, D features, N classes. A `Fit` takes features
[B, M, D] and targets [B, M, N] and gives a `Head`, which takes features [B, P, D] and gives scores
[B, P, N]. A row of targets may be soft, and sums to what its image counts for. All are differentiable.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Head = Callable[[Tensor], Tensor]
Fit = Callable[[Tensor, Tensor], Head]

# Softmax regression on features of length one is smooth with constant 1/2, but with the bias it is 1, and steps of
# 2 are at the limit. That they converge rests on the penalty, which keeps the rate below the limit, and on balanced
# classes, which keep the bias near zero; with a penalty of 1, 100 leave less than the interval of an accuracy.
_LOGISTIC_RATE = 2.0
_SCHULZ_STEPS = 30


def means_of(features: Tensor, targets: Tensor) -> Tensor:
    """The mean of each class, [B, N, D]."""
    return targets.mT @ features / targets.sum(1)[..., None]


def nearest_mean(features: Tensor, targets: Tensor, *, metric: str, temperature: float | Tensor) -> Head:
    """Scores by closeness to the class means.

    Args:
        metric: "euclidean" (squared distance, in units of the root of D) or "cosine".
        temperature: divides the scores.
    """
    means = means_of(features, targets)
    if metric == "cosine":
        unit = F.normalize(means, dim=-1)
        return lambda query: F.normalize(query, dim=-1) @ unit.mT / temperature
    # |q - p|² without the term |q|², which is the same for every class.
    offset = means.square().sum(-1)[:, None]
    scale = temperature * features.shape[-1] ** 0.5
    return lambda query: (2 * query @ means.mT - offset) / scale


def logistic(features: Tensor, targets: Tensor, *, steps: int, penalty: float) -> Head:
    """Softmax regression with an L2 penalty, for features of length one, by gradient steps.

    Args:
        penalty: relative to one labelled image; 1 is scikit-learn's default, where C = 1.
    """
    counts = targets.sum(-1, keepdim=True)  # what each image counts for
    total = counts.sum(1, keepdim=True)
    weight = features.new_zeros(len(features), targets.shape[-1], features.shape[-1])
    bias = features.new_zeros(len(features), targets.shape[-1])
    relative = penalty / total
    rate = _LOGISTIC_RATE / (1 + _LOGISTIC_RATE * relative)
    for _ in range(steps):
        scores = torch.baddbmm(bias[:, None], features, weight.mT)
        error = (counts * scores.softmax(-1) - targets) / total
        weight = weight - rate * (error.mT @ features + relative * weight)
        bias = bias - rate[..., 0] * error.sum(1)
    return lambda query: torch.baddbmm(bias[:, None], query, weight.mT)


def cosine_classifier(features: Tensor, targets: Tensor, *, steps: int, scale: float) -> Head:
    """Softmax regression on `scale` times cosines (Baseline++, Chen et al. 2019), for features of length one.

    Each class has a direction, which starts as that of its mean and takes gradient steps on the sphere, so with no
    steps this is `nearest_mean`. Length means nothing to a cosine, so an L2 penalty would neither.
    """
    counts = targets.sum(-1, keepdim=True)  # what each image counts for
    total = counts.sum(1, keepdim=True)
    # The loss bends by at most scale² / 2 along the features and scale across them, so these steps go downhill.
    rate = 1 / (scale**2 / 2 + scale)
    directions = F.normalize(targets.mT @ features, dim=-1)  # (B, N, D)
    for _ in range(steps):
        error = (counts * (scale * features @ directions.mT).softmax(-1) - targets) / total
        uphill = scale * error.mT @ features
        along = (uphill * directions).sum(-1, keepdim=True)
        directions = F.normalize(directions - rate * (uphill - along * directions), dim=-1)
    return lambda query: scale * F.normalize(query, dim=-1) @ directions.mT


def ridge(features: Tensor, targets: Tensor, *, penalty: float | Tensor, scale: float | Tensor = 1.0) -> Head:
    """Ridge regression of the targets without intercept, through the smaller of two equal systems; times `scale`.

    With the Woodbury identity W = Xᵀ (X Xᵀ + λ I)⁻¹ Y needs only an M × M system (Bertinetto et al. 2019,
    equations 5 and 6). Soft targets weigh as numbers, not as counts, but an image whose targets are all zero is
    left out. The system is of 64 bits, where large features and a small λ are singular in 32.
    """
    x, y = (features * (targets != 0).any(-1, keepdim=True)).double(), targets.double()
    if torch.compiler.is_exporting():  # M may be any number there, so which system is smaller is not known
        weight = x.mT @ _solved_by_products(_regularised(x @ x.mT, penalty), y)
    elif x.shape[1] < x.shape[2]:
        weight = x.mT @ _solved(_regularised(x @ x.mT, penalty), y)
    else:
        weight = _solved(_regularised(x.mT @ x, penalty), x.mT @ y)
    weight = weight.to(features)
    return lambda query: scale * (query @ weight)


def _regularised(products: Tensor, penalty: float | Tensor) -> Tensor:
    """K + λ I of products K [B, K, K]."""
    return products + penalty * _identity(products)


def _identity(systems: Tensor) -> Tensor:
    """I for each of [B, K, K]; made from them, since K may be any number in a graph."""
    return torch.ones_like(systems[:, 0]).diag_embed()


def _solved(system: Tensor, right: Tensor) -> Tensor:
    """Solutions [B, K, N] of positive definite systems [B, K, K]; NaN where one is not positive definite.

    By Cholesky's factor. Once torch was told a number of threads, LU of several systems of 150 rows may never end:
    https://github.com/pytorch/pytorch/issues/142815.
    """
    root, failed = torch.linalg.cholesky_ex(system)  # which raises nothing: a diverged trial ends at its loss
    return torch.cholesky_solve(right, root).masked_fill(failed[:, None, None] > 0, torch.nan)


def _solved_by_products(system: Tensor, right: Tensor) -> Tensor:
    """The same by matrix products alone, since graphs of common operations solve nothing.

    Schulz's iteration (1933) doubles the right digits of an inverse: 30 of them serve condition numbers up to some
    10⁷.
    """
    inverse = _identity(system) / system.abs().sum(-1).amax(-1)[:, None, None]
    for _ in range(_SCHULZ_STEPS):
        inverse = 2 * inverse - inverse @ (system @ inverse)
    return inverse @ right
