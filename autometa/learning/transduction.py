"""Transductive starts of a head: the unlabelled query set helps to place the classes.

Each gives the query images labels, and fits the head again to support and query together. What they reach
is not comparable with an inductive accuracy, and is marked wherever it is shown.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from autometa.errors import require_one_of
from autometa.learning.heads import Fit

KINDS = ("none", "soft_kmeans", "pseudo_label", "knn")
_ROUNDS = 3  # of labelling and fitting again
_CONFIDENT_SHARE = 0.5  # of the query images get a pseudo-label
_MOST_NEIGHBOURS = 3


def check_kind(option: str, kind: str) -> None:
    """Raise `ConfigError` unless `kind` is one of `KINDS`."""
    require_one_of(option, kind, KINDS)


def transductive_scores(kind: str, fit: Fit, support: Tensor, targets: Tensor, query: Tensor) -> Tensor:
    """Scores [B, P, N] of query features [B, P, D] by a head fitted to support features [B, M, D].

    Kinds:
        none: the support set alone, inductive.
        soft_kmeans: queries count by their probabilities (Ren et al. 2018; it is theirs with `nearest_mean`).
        pseudo_label: the most confident half of them count as their likeliest class (Lee 2013).
        knn: the first labels are votes of the nearest support images, then as soft_kmeans.
    """
    head = fit(support, targets)
    if kind == "none":
        return head(query)
    if kind == "knn":
        head = fit(torch.cat([support, query], 1), torch.cat([targets, votes(support, targets, query)], 1))
    for _ in range(_ROUNDS):
        shares = head(query).softmax(-1)
        labels = confident(shares) if kind == "pseudo_label" else shares
        head = fit(torch.cat([support, query], 1), torch.cat([targets, labels], 1))
    return head(query)


def votes(support: Tensor, targets: Tensor, query: Tensor) -> Tensor:
    """Mean target [B, P, N] of the most similar support images, as many as shots but at most three."""
    similar = F.normalize(query, dim=-1) @ F.normalize(support, dim=-1).mT  # (B, P, M)
    shots = support.shape[1] // targets.shape[-1]
    nearest = similar.topk(min(shots, _MOST_NEIGHBOURS), dim=-1).indices  # (B, P, k)
    tasks = torch.arange(len(support), device=support.device)[:, None, None]
    return targets[tasks, nearest].mean(2)


def confident(shares: Tensor) -> Tensor:
    """One-hot likeliest classes of the most confident half of [B, P, N]; zero rows for the others."""
    best, label = shares.max(-1)
    keep = max(1, int(_CONFIDENT_SHARE * shares.shape[1]))
    least = best.topk(keep, dim=-1).values[:, -1:]
    return F.one_hot(label, shares.shape[-1]).to(shares) * (best >= least)[..., None]
