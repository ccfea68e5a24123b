"""CNAPs: a task is a point in a space of tasks, and the point sets how the backbone works on the task.

Symbols: B episodes, N way, K shot, Q query images a class, D features, Z coordinates of the space of tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.learner import EpisodicLearner, Setting, by_class, embed
from autometa.learning.normalization import Film, Norm

_ENCODER_BLOCKS = 4
_ENCODER_WIDTH = 32
_ENCODER_GROUPS = 4
_RIDGE = 1.0  # the identity's weight in a class covariance: beta of Bateni et al. 2020, who take 1


class Cnaps(EpisodicLearner):
    """Requeima et al. 2019, Fast and flexible multi-task classification using conditional neural adaptive processes.

    A convolutional set encoder maps the support images of a task to its point in the space of tasks. From there
    one small network for each norm of the backbone gives a scale and a shift of its channels (FiLM, Perez et al.
    2018). The head is a class mean, with the class covariances of Simple CNAPS (Bateni et al. 2020) on demand.
    The last layers start from zero, so that an untrained adapter changes nothing.

    In the papers the backbone is pre-trained and frozen and the adaptation of a layer also sees the task's maps
    below it; here all is trained together and the point alone decides.

    Args:
        task_features: Z, coordinates of a task's point.
        temperature: divides the squared distances, in units of the root of the number of features.
        head: the distance to class means, "euclidean" or "mahalanobis".

    Raises:
        ConfigError: the backbone has no `Norm` to scale and shift.
    """

    def __init__(
        self,
        backbone: Backbone,
        setting: Setting,
        *,
        task_features: int = 32,
        temperature: float = 0.1,
        head: str = "euclidean",
    ) -> None:
        super().__init__(backbone, setting)
        if task_features < 1:
            raise ConfigError(f"cnaps.task_features = {task_features}: it must be at least 1")
        if temperature <= 0:
            raise ConfigError(f"cnaps.temperature = {temperature}: it must be positive")
        if head not in ("euclidean", "mahalanobis"):
            raise ConfigError(f"cnaps.head = {head!r}: it may be euclidean | mahalanobis")
        self.temperature, self.head = temperature, head
        self.adapters = nn.ModuleList(_adapter(task_features, norm.channels) for norm in _norms(backbone))
        self.encoder = _encoder(backbone.image_shape[0], task_features)

    def task_point(self, episodes: EpisodeBatch) -> Tensor:
        """Where each task lies in the space of tasks, by its support images alone: [B, Z]."""
        encoded: Tensor = self.encoder(episodes.support_x.flatten(0, 1))
        return encoded.unflatten(0, (episodes.batch, -1)).mean(1)

    def film(self, point: Tensor) -> Film:
        """Scale and shift of every norm of the backbone for tasks at these points [B, Z]."""
        raw = [adapter(point).chunk(2, dim=-1) for adapter in self.adapters]
        return {norm: (1 + scale, shift) for norm, (scale, shift) in zip(_norms(self.backbone), raw, strict=True)}

    def scores(self, episodes: EpisodeBatch) -> Tensor:
        support, query = embed(self.backbone, episodes, film=self.film(self.task_point(episodes)))
        distances = squared_distances if self.head == "euclidean" else squared_mahalanobis
        return -distances(by_class(support, episodes), query) / (self.temperature * query.shape[-1] ** 0.5)


def squared_distances(classes: Sequence[Tensor], query: Tensor) -> Tensor:
    """Squared distance of query features [B, N·Q, D] to the mean of each class's [B, K, D]: [B, N·Q, N].

    Without the square of the query itself, which is the same for every class.
    """
    means = _means(classes)
    return means.square().sum(-1)[:, None] - 2 * query @ means.mT


def squared_mahalanobis(classes: Sequence[Tensor], query: Tensor) -> Tensor:
    """Squared Mahalanobis distance to class means, [B, N·Q, N] (Bateni et al. 2020, equations 2 and 3).

    The covariance of class k is λ S_k + (1 - λ) S + I with λ = K / (K + 1), where S_k is that of its support
    features [B, K, D], zero for one shot, and S that of the whole support set. With AᵀA for the first two terms, A of
    R = M + K rows for M support images, its inverse is I - Aᵀ (I + A Aᵀ)⁻¹ A: only R × R matrices are made, never
    D × D. Features so large, or not finite, that I + A Aᵀ is not positive definite in floating point give NaN.
    """
    factor = _covariance_factor(classes)  # (B, N, R, D)
    offset = query[:, None] - _means(classes)[:, :, None]  # (B, N, N·Q, D)
    seen = factor @ offset.mT  # (B, N, R, N·Q)
    inner = factor @ factor.mT + _RIDGE * torch.eye(factor.shape[2], dtype=factor.dtype, device=factor.device)
    root, failed = torch.linalg.cholesky_ex(inner)  # which raises nothing: a diverged trial ends at its loss
    explained = torch.linalg.solve_triangular(root, seen, upper=False).square().sum(2)  # (B, N, N·Q)
    explained = explained.masked_fill(failed[..., None] > 0, torch.nan)
    return ((offset.square().sum(-1) - explained) / _RIDGE).mT


def _means(classes: Sequence[Tensor]) -> Tensor:
    return torch.stack([features.mean(1) for features in classes], 1)  # (B, N, D)


def _covariance_factor(classes: Sequence[Tensor]) -> Tensor:
    """A of each class, [B, N, M + K, D]: AᵀA is its covariance, shrunk to that of the task, without the identity.

    K is that of the class with most images; rows of zeros fill up the others and add nothing.
    """
    support = torch.cat(list(classes), 1)
    task = (support - support.mean(1, keepdim=True)) / max(1, support.shape[1] - 1) ** 0.5
    most = max(features.shape[1] for features in classes)
    factors = []
    for features in classes:
        shot = features.shape[1]
        own = shot / (shot + 1)
        of_class = (features - features.mean(1, keepdim=True)) * (own / max(1, shot - 1)) ** 0.5
        factors.append(torch.cat([task * (1 - own) ** 0.5, F.pad(of_class, (0, 0, 0, most - shot))], 1))
    return torch.stack(factors, 1)


def _norms(backbone: Backbone) -> list[Norm]:
    found = [module for module in backbone.modules() if isinstance(module, Norm)]
    if not found:
        raise ConfigError(
            f"cnaps scales and shifts the norms of a backbone, and {type(backbone).__name__.lower()} has none: "
            "choose one with norms, as conv, resnet12 or mlp"
        )
    return found


def _encoder(channels: int, task_features: int) -> nn.Sequential:
    """Images [M, C, H, W] to [M, Z], each by itself; strides in place of pooling take an image of any size."""
    layers: list[nn.Module] = []
    for inputs in (channels, *[_ENCODER_WIDTH] * (_ENCODER_BLOCKS - 1)):
        convolution = nn.Conv2d(inputs, _ENCODER_WIDTH, 3, stride=2, padding=1, bias=False)
        layers += [convolution, nn.GroupNorm(_ENCODER_GROUPS, _ENCODER_WIDTH), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(_ENCODER_WIDTH, task_features))


def _adapter(task_features: int, channels: int) -> nn.Sequential:
    """A task's point [B, Z] to the changes of scale and shift, [B, 2·channels], zero at the start."""
    last = nn.Linear(task_features, 2 * channels)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(task_features, task_features), nn.ReLU(), last)
