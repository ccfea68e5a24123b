"""A classifier on features that nobody trains here: what a pretrained network is used with first."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError, require_one_of
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.head_learner import HeadLearner
from autometa.learning.heads import Fit, Head, logistic, means_of, nearest_mean, ridge
from autometa.learning.learner import (
    EpisodicLearner,
    Setting,
    TrainingSource,
    embed,
    support_targets,
    support_weights,
)
from autometa.learning.learners.svm import dual_solution

HEADS = ("cosine", "mahalanobis", "ridge", "logistic", "svm")
CENTRES = ("none", "train", "support")
SCALE = 10.0  # of cosines and regressions, which are flat for a softmax
_LOGISTIC_STEPS, _SVM_STEPS = 100, 100
# Train images by which centre and covariances are estimated; more are no better (`docs/log.md`).
_SEEN = 1300
_LEAST_EIGENVALUE = 5e-2  # of the covariance, as a part of their mean: smaller ones are noise of few images


class Frozen(EpisodicLearner, HeadLearner):
    """Wang et al. 2019, SimpleShot; Tian et al. 2020, Rethinking few-shot image classification.

    There are no outer steps. The centre and the covariance of features are those of train classes; what changes with
    a task is fitted to its support set.

    Args:
        head: "cosine" (nearest class mean of features of length one), "mahalanobis" (nearest class mean by the
            covariance within train classes), "ridge", "logistic" or "svm" on features of length one.
        centre: subtract no mean, that of "train" classes (SimpleShot's CL2N), or that of the "support" set.
        power: exponent of each feature's size, in (0, 1]; 1/2 is the power transform of Hu et al. 2021.
        whiten: 0 … 1, how far directions that vary within train classes are made shorter: by the power -whiten/2 of
            the variance there.
        spread: with `whiten`, how far directions in which train classes differ are made longer: by the root of 1 plus
            so many times the variance of class means there, relative to that within classes after whitening. It is
            what probabilistic linear discriminant analysis does (Ioffe 2006), in a measure that a search finds.
        dims: with `whiten` and "mahalanobis", how many directions are kept: those that vary most within classes.
        penalty: of the L2 norm of the weights of "ridge" and "logistic", relative to one support image; of "svm" 1/C.
    """

    backbone_name = "lite"
    is_trained = False
    stackable_with = None

    def __init__(
        self,
        backbone: Backbone,
        setting: Setting,
        *,
        head: str = "cosine",
        centre: str = "train",
        power: float = 1.0,
        whiten: float = 0.0,
        spread: float = 0.0,
        dims: int = 2048,
        penalty: float = 1.0,
    ) -> None:
        super().__init__(backbone, setting)
        require_one_of("frozen.head", head, HEADS)
        require_one_of("frozen.centre", centre, CENTRES)
        if not 0 < power <= 1:
            raise ConfigError(f"frozen.power = {power}: it must be above 0, and 1 at most")
        if not 0 <= whiten <= 1:
            raise ConfigError(f"frozen.whiten = {whiten}: it must be in [0, 1]")
        if spread < 0:
            raise ConfigError(f"frozen.spread = {spread}: it must be at least 0")
        if dims < 1 or penalty <= 0:
            raise ConfigError(f"frozen.dims = {dims}, frozen.penalty = {penalty}: both must be positive")
        self.head, self.centre, self.power, self.penalty = head, centre, power, penalty
        self.whiten, self.spread = 1.0 if head == "mahalanobis" else whiten, spread
        self.log_scale = nn.Parameter(torch.zeros(()))  # a checkpoint is of something that can be trained
        width = backbone.features
        self.register_buffer("mean", torch.zeros(width if centre == "train" else 0))
        self.register_buffer("directions", torch.eye(width, min(dims, width)) if self.whiten else torch.zeros(0))
        self.mean: Tensor
        self.directions: Tensor

    @property
    def sees(self) -> int:
        return _SEEN if self.centre == "train" or self.whiten else 0

    @torch.no_grad()
    def see(self, source: TrainingSource) -> None:
        if not self.sees:
            return
        was_training = self.training
        self.eval()
        images: list[Tensor] = []
        labels: list[Tensor] = []
        while sum(map(len, images)) < self.sees:
            features, classes = self._seen(source.episodes(), first=sum(map(len, images)))
            images.append(features)
            labels.append(classes)
        self.train(was_training)
        features, classes = torch.cat(images), torch.cat(labels)
        if self.centre == "train":
            self.mean.copy_(features.mean(0))
        if self.whiten:
            width = self.directions.shape[1]
            self.directions.copy_(directions(features, classes, width, strength=self.whiten, spread=self.spread))

    def scores(self, episodes: EpisodeBatch) -> Tensor:
        support, query = (self.described(features) for features in embed(self.backbone, episodes))
        return self.fitted(support, support_targets(episodes, support), support_weights(episodes))(query)

    def described(self, features: Tensor) -> Tensor:
        features = self._powered(features)
        if self.centre == "train":
            features = features - self.mean
        if self.whiten:
            features = features @ self.directions
        return features if self.centre == "support" else self._of_length_one(features)

    def fitted(self, support: Tensor, targets: Tensor, weights: Tensor | None) -> Head:
        if self.centre != "support":
            return self._scaled(self._fitted(support, targets, weights))
        centre = means_of(support, targets).mean(1, keepdim=True)  # (B, 1, D)
        head = self._scaled(self._fitted(self._of_length_one(support - centre), targets, weights))
        return lambda query: head(self._of_length_one(query - centre))

    def _seen(self, episodes: EpisodeBatch, *, first: int) -> tuple[Tensor, Tensor]:
        """Features [M, D] of all images of episodes, and their classes [M]; others in each episode if nobody says."""
        support, query = (self._powered(features) for features in embed(self.backbone, episodes))
        by_class = torch.cat([part.unflatten(1, (episodes.way, -1)) for part in (support, query)], 2)  # (B, N, K+Q, D)
        of_episodes, way, shots = by_class.shape[:3]
        classes = episodes.classes
        if classes is None:
            classes = first + torch.arange(of_episodes * way)
        return by_class.flatten(0, 2), classes.flatten().repeat_interleave(shots).to(by_class.device)

    def _powered(self, features: Tensor) -> Tensor:
        return features if self.power == 1 else features.sign() * features.abs().clamp_min(1e-12) ** self.power

    def _of_length_one(self, features: Tensor) -> Tensor:
        return features if self.head == "mahalanobis" else F.normalize(features, dim=-1)

    def _scaled(self, head: Head) -> Head:
        return lambda query: self.log_scale.exp() * head(query)

    def _fitted(self, support: Tensor, targets: Tensor, weights: Tensor | None) -> Head:
        if weights is None:
            return self._fit(1.0)(support, targets)
        counts = weights[:, None]
        if self.head == "ridge":  # least squares take the root of what an image counts for, on both sides
            return self._fit(1.0)(support * counts.sqrt(), targets * counts.sqrt())
        return self._fit(counts)(support, targets if self.head == "svm" else targets * counts)

    def _fit(self, costs: Tensor | float) -> Fit:
        """The head; `costs` of errors on support images are those of \"svm\" alone."""
        if self.head == "cosine":
            return functools.partial(nearest_mean, metric="cosine", temperature=1 / SCALE)
        if self.head == "mahalanobis":
            return functools.partial(nearest_mean, metric="euclidean", temperature=1.0)
        if self.head == "ridge":
            return functools.partial(ridge, penalty=self.penalty, scale=SCALE)
        if self.head == "logistic":
            return functools.partial(logistic, steps=_LOGISTIC_STEPS, penalty=self.penalty)
        return functools.partial(_svm, penalty=costs / self.penalty)


def directions(features: Tensor, classes: Tensor, dims: int, *, strength: float, spread: float) -> Tensor:
    """Whitened directions [D, dims] of features [M, D] of classes [M]; longer where classes differ, by `spread`."""
    names, index, counts = classes.unique(return_inverse=True, return_counts=True)
    sums = features.new_zeros(len(names), features.shape[1]).index_add_(0, index, features)
    means = sums / counts[:, None]
    # The mean of few images lies nearer to them than that of the class.
    deviations = (features - means[index]) * (counts / (counts - 1).clamp_min(1)).sqrt()[index, None]
    whitened = whitening(deviations, dims, strength)
    if not spread:
        return whitened
    within = (deviations @ whitened).square().mean()
    _, sizes, axes = torch.linalg.svd((means - means.mean(0)) @ whitened, full_matrices=False)  # axes: (classes, dims)
    longer = (1 + spread * sizes.square() / len(means) / within).sqrt()
    return whitened + (whitened @ axes.mT) * (longer - 1) @ axes


def whitening(deviations: Tensor, dims: int, strength: float) -> Tensor:
    """The directions [D, dims] in which deviations [M, D] vary most, each times its variance to the -strength/2."""
    covariance = deviations.mT @ deviations / len(deviations)
    variances, directions = _axes(covariance)
    least = _LEAST_EIGENVALUE * variances.mean()
    variances, directions = variances.flip(0)[:dims].clamp_min(0) + least, directions.flip(1)[:, :dims]
    variances = variances.clamp_min(torch.finfo(variances.dtype).tiny)  # of features that never vary
    return directions * variances ** (-strength / 2)


def _axes(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Variances [D], ascending, and directions [D, D] of a covariance; single precision fails where few images vary."""
    try:
        found = torch.linalg.eigh(covariance)
        is_found = bool(found.eigenvalues.isfinite().all())
    except RuntimeError:
        is_found = False
    if not is_found:
        found = torch.linalg.eigh(covariance.double())
    return found.eigenvalues.to(covariance), found.eigenvectors.to(covariance)


def _svm(features: Tensor, targets: Tensor, *, penalty: float | Tensor) -> Head:
    dual = dual_solution(features @ features.mT, targets, penalty=penalty, steps=_SVM_STEPS)
    return lambda query: SCALE * (query @ features.mT @ dual)
