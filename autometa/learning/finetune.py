"""Fine-tuning of all weights on a support set, at test time only."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.heads import Fit
from autometa.learning.learner import class_weights, support_targets, support_weights
from autometa.learning.normalization import Layout


def tuned_scores(backbone: Backbone, fit: Fit, task: EpisodeBatch, *, steps: int, rate: float) -> Tensor:
    """Scores [1, N·Q, N] of one task after gradient steps on backbone and head together.

    The head starts as `fit` to the initial features of length one. The backbone itself is not changed.
    """
    support, query = task.support_x[0], task.query_x[0]
    with torch.enable_grad():
        weights = {name: weight.detach() for name, weight in backbone.named_parameters()}
        head = _initial_head(fit, _features(backbone, weights, support, len(support)), task)
        for _ in range(steps):
            weights, head = _stepped(backbone, weights, head, task, rate)
    weights = {name: weight.detach() for name, weight in weights.items()}
    features = _features(backbone, weights, torch.cat([support, query]), len(support))[len(support) :]
    return F.linear(features, *(part.detach() for part in head))[None]


def _stepped(
    backbone: Backbone, weights: dict[str, Tensor], head: tuple[Tensor, Tensor], task: EpisodeBatch, rate: float
) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """Weights and head after one step down the cross-entropy of the support set."""
    variables = [part.detach().requires_grad_() for part in (*weights.values(), *head)]
    moving = dict(zip(weights, variables, strict=False))
    features = _features(backbone, moving, task.support_x[0], task.support_x.shape[1])
    loss = F.cross_entropy(F.linear(features, *variables[-2:]), task.support_y[0], class_weights(task))
    moved = [v - rate * g for v, g in zip(variables, torch.autograd.grad(loss, variables), strict=True)]
    return dict(zip(weights, moved, strict=False)), (moved[-2], moved[-1])


def _initial_head(fit: Fit, features: Tensor, task: EpisodeBatch) -> tuple[Tensor, Tensor]:
    """Weight [N, D] and bias [N] of a fitted linear head, read off its scores of zero and of each axis."""
    targets, weights = support_targets(task, features), support_weights(task)
    head = fit(features.detach()[None], targets if weights is None else targets * weights[:, None])
    width = features.shape[-1]
    bias = head(features.new_zeros(1, 1, width))[0, 0]
    weight = head(torch.eye(width, dtype=features.dtype, device=features.device)[None])[0].mT - bias[:, None]
    return weight, bias


def _features(backbone: Backbone, weights: dict[str, Tensor], images: Tensor, support: int) -> Tensor:
    """Features of length one [M, D] under these weights."""
    layout = Layout(tasks=1, support=support)
    return F.normalize(functional_call(backbone, weights, (images, layout)), dim=-1)
