"""What a trained model computes, as modules that `torch.export` can write: features, an episode, or one task's classes.

All take images as floats from 0 to 255. Normalisation is inside.

Symbols: P images, M support images, N classes, D features; C, H, W of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.pretrained import Fixed, Pretrained
from autometa.learning.ensemble import Ensemble, Mixture
from autometa.learning.head_learner import HeadLearner
from autometa.learning.inner_loop import TaskLearner
from autometa.learning.learner import Learner, mixes_images
from autometa.learning.symmetries import VIEWS
from autometa.learning.views import mean_of, seen
from autometa.trial.model_files import ModelInput


class Prepare(nn.Module):
    """Images [P, C, H, W] from 0 to 255 as a learner takes them: brightened ink, mean 0 and spread 1."""

    def __init__(self, taken: ModelInput) -> None:
        super().__init__()
        mean, std = (torch.tensor(part).reshape(1, -1, 1, 1) for part in (taken.mean, taken.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", mean / std)
        self.scale: Tensor
        self.shift: Tensor
        self.is_inverted = taken.is_inverted

    def forward(self, images: Tensor) -> Tensor:
        return (255 - images if self.is_inverted else images) * self.scale - self.shift


class Features(nn.Module):
    """Features [P, D] of images [P, C, H, W].

    Raises:
        ConfigError: features alone are nothing that the learner uses.
    """

    def __init__(self, learner: Learner, taken: ModelInput) -> None:
        super().__init__()
        self.prepare, self.learner = Prepare(taken), with_head(learner)
        self.frozen = _frozen(learner)

    def forward(self, images: Tensor) -> Tensor:
        return features_of(self.learner, self.prepare(images))


class Episode(nn.Module):
    """Logits [P, N] of images [P, C, H, W] by support images [M, C, H, W] and their one-hot labels [M, N].

    Raises:
        ConfigError: what the learner does with a support set is no graph of common operations.
    """

    def __init__(self, learner: Learner, taken: ModelInput) -> None:
        super().__init__()
        self.prepare, self.answer = Prepare(taken), _of_episode(learner)
        self.frozen = _frozen(learner)

    def forward(self, support: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        logits: Tensor = self.answer(self.prepare(support), labels, self.prepare(images))
        return logits


class Classifier(nn.Module):
    """Probabilities [P, N] of images [P, C, H, W], of classes whose support images it was made with.

    Args:
        task: one episode, whose support images are those of the classes.
        soften: makes logits [P, N] such that their softmax are the probabilities.

    Raises:
        ConfigError: the learner is transductive, or takes gradient steps for which nothing keeps the outcome.
    """

    def __init__(
        self, learner: Learner, taken: ModelInput, task: EpisodeBatch, soften: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.prepare, self.answer = Prepare(taken), _of_task(learner, task)
        self.frozen = _frozen(learner)
        self.soften = soften

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.answer(self.prepare(images))
        return self.soften(logits).softmax(-1)


class _Headed(nn.Module):
    """A head that was fitted to the support images, on features."""

    def __init__(self, learner: HeadLearner, task: EpisodeBatch) -> None:
        super().__init__()
        self.learner = learner
        shown = learner.shown(task)
        features = features_of(learner, shown.support_x[0])[None]
        targets = F.one_hot(shown.support_y, shown.way).to(features)
        self.head = learner.fitted(features, targets, _weights(targets) if shown.shots else None)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(features_of(self.learner, images)[None])[0]


class _Adapted(nn.Module):
    """A learner with the weights that the support images gave it."""

    def __init__(self, learner: TaskLearner, task: EpisodeBatch) -> None:
        super().__init__()
        self.learner, self.task = learner, task
        with torch.enable_grad():
            weights = learner.adapt(task, create_graph=False)
        self.weights = {name: weight.detach() for name, weight in weights.items()}

    def forward(self, images: Tensor) -> Tensor:
        return self.learner.query_scores(self.weights, replace(self.task, query_x=images[None]))[0]


class _Anew(nn.Module):
    """A learner that looks at the support images anew each time, since query images are seen in their light."""

    def __init__(self, learner: Learner, task: EpisodeBatch) -> None:
        super().__init__()
        self.learner, self.task = learner, task

    def forward(self, images: Tensor) -> Tensor:
        return self.learner.query_logits(replace(self.task, query_x=images[None]))[0]


class _HeadOfEpisode(nn.Module):
    """The head that is fitted inside the graph."""

    def __init__(self, learner: HeadLearner) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, support: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        # All images together: a network that stood twice in the graph would take twice as long to write.
        features, targets = features_of(self.learner, torch.cat([support, images]))[None], labels[None]
        count = support.shape[0]  # `len` would write today's number into the graph
        return self.learner.fitted(features[:, :count], targets, _weights(targets))(features[:, count:])[0]


class _InViews(nn.Module):
    """The mean of log probabilities over views: `parts` answer in each, of tensors of images and of others."""

    def __init__(self, parts: Sequence[nn.Module], views: Sequence[int]) -> None:
        super().__init__()
        self.parts, self.views = nn.ModuleList(parts), tuple(views)

    def forward(self, *given: Tensor) -> Tensor:
        return mean_of(
            [
                part(*(seen(one, view) if one.ndim == 4 else one for one in given)).log_softmax(-1)
                for part, view in zip(self.parts, self.views, strict=True)
            ]
        )


class _Together(nn.Module):
    """An ensemble's log probabilities from its members'."""

    def __init__(self, members: Sequence[nn.Module], mixture: Mixture) -> None:
        super().__init__()
        self.members, self.mixture = nn.ModuleList(members), mixture

    def forward(self, *given: Tensor) -> Tensor:
        return self.mixture.log_probabilities([member(*given) for member in self.members])


def features_of(learner: HeadLearner, images: Tensor) -> Tensor:
    """Features [P, D] of normalised images [P, C, H, W], as the heads of this learner take them."""
    return learner.described(learner.backbone(images))


def _of_task(learner: Learner, task: EpisodeBatch) -> nn.Module:
    """Normalised images [P, C, H, W] to logits [P, N]."""
    if learner.transductive:
        raise ConfigError("a transductive model answers for all images of a batch together: it cannot be exported")
    if isinstance(learner, Ensemble):
        members = [
            _InViews([_of_task(member, _seen(task, view)) for view in VIEWS[views]], VIEWS[views])
            for member, views in zip(learner.learners, learner.views, strict=True)
        ]
        return _Together(members, learner.mixture)
    if isinstance(learner, TaskLearner):
        return _Adapted(learner, task)
    if not isinstance(learner, HeadLearner):
        return _Anew(learner, task)
    if not learner.has_fixed_features:
        raise ConfigError(f"{_name(learner)} tunes all weights to each task and does not keep them: no export")
    return _Anew(learner, task) if mixes_images(learner.backbone) else _Headed(learner, task)


def _of_episode(learner: Learner) -> nn.Module:
    """Normalised support images [M, C, H, W], one-hot labels [M, N], images [P, C, H, W] to logits [P, N]."""
    if isinstance(learner, Ensemble):
        parts = [
            _InViews([_of_episode(member)] * len(VIEWS[views]), VIEWS[views])
            for member, views in zip(learner.learners, learner.views, strict=True)
        ]
        return _Together(parts, learner.mixture)
    found = with_head(learner)
    if not found.fits_in_a_graph:
        raise ConfigError(
            f"{_name(learner)} changes the support images before it fits its head to them: "
            "give the classes with --support DIR"
        )
    return _HeadOfEpisode(found)


def with_head(learner: Learner) -> HeadLearner:
    """The learner, whose features of an image serve every task."""
    if isinstance(learner, Ensemble):
        raise ConfigError("an ensemble has no features of its own: give the classes with --support DIR")
    if not isinstance(learner, HeadLearner) or not learner.has_fixed_features or mixes_images(learner.backbone):
        raise ConfigError(
            f"{_name(learner)} sees images in the light of a task's support set, so it has no features for every task: "
            "give the classes with --support DIR"
        )
    return learner


def _frozen(learner: Learner) -> nn.ModuleList:
    """The networks that backbones share and do not own.

    A tensor that no module of a graph owns is a constant, and `torch.export` rebuilds the graph for each of them.
    """
    backbones = [part for part in learner.modules() if isinstance(part, Pretrained)]
    return nn.ModuleList(part.network.on(torch.device("cpu")) for part in backbones if isinstance(part.network, Fixed))


def _seen(task: EpisodeBatch, view: int) -> EpisodeBatch:
    return replace(task, support_x=seen(task.support_x, view))


def _weights(targets: Tensor) -> Tensor:
    """What each support image counts for, [M] with mean 1, so that classes count alike; of targets [1, M, N]."""
    shots = targets[0].sum(0)
    return targets[0] @ (shots.mean() / shots)


def _name(learner: Learner) -> str:
    return type(learner).__name__
