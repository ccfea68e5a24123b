"""Supervised pre-training: an ordinary classifier of the train classes, whose features serve new classes."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.data.rotation import rotated
from autometa.errors import ConfigError, require_one_of
from autometa.learning.augment import Augment, make_augment
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.device import global_generator
from autometa.learning.finetune import tuned_scores
from autometa.learning.head_learner import HeadLearner
from autometa.learning.heads import Fit, Head, cosine_classifier, logistic, nearest_mean, ridge
from autometa.learning.learner import (
    LossLearner,
    Setting,
    TrainingSource,
    by_class,
    embed,
    support_targets,
    support_weights,
)
from autometa.learning.losses import cross_entropy
from autometa.learning.mixing import Mixed, cutmix, mixed_loss, mixup
from autometa.learning.transduction import check_kind, transductive_scores

_COSINE_SCALE = 10.0  # Gidaris & Komodakis 2018 start from 10; cosines alone are too flat for a softmax
_RIDGE_SCALE = 10.0  # ridge regression of 0 and 1 gives scores of the same flatness
_MIXING_ALPHA = 1.0  # as in both papers on CIFAR
_TEACHER_DECAY = 0.999
_DISTILLATION_TEMPERATURE = 4.0  # Tian et al. 2020
_COPIES_SEED = 0  # of the augmented support copies


class Pretrain(LossLearner, HeadLearner):
    """Chen et al. 2019, A closer look at few-shot classification; Tian et al. 2020, Rethinking few-shot image
    classification: a good embedding is all you need?

    Args:
        head: how a new task is solved on features of length one: "cosine" (nearest class mean),
            "cosine_classifier" (a cosine classifier fitted to the support set, Baseline++), "finetune" (logistic
            regression with an L2 penalty) or "ridge", fitted to the support set.
        train_head: the classifier in pre-training, "linear" or "cosine" (Baseline++).
        batch_size: images of an outer step.
        finetune_steps: gradient steps of the heads "finetune" and "cosine_classifier".
        finetune_penalty: L2 penalty of the heads "finetune" and "ridge", relative to one support image; 1 as in
            scikit-learn.
        flip_support: give each support image its mirror image as a second one.
        support_copies: fit the head to so many augmented copies of each support image in its place, as Tian et al.
            do with 5; 1 takes the images as they are.
        support_augment: how copies are made, a name that `augment` takes.
        adapt: what a new task changes, the "head" alone or "all" weights, by `tune_steps` further gradient
            steps of size `tune_lr` from the fitted "finetune" head.
        rotation_weight: of telling by how many quarter turns an image was rotated (Gidaris et al. 2019).
        distillation_weight: of agreeing with the running average of the own weights, in [0, 1) (Tarvainen &
            Valpola 2017; the born-again form of Tian et al. needs a second training).
        mixing: "none", "mixup" (Zhang et al. 2018) or "cutmix" (Yun et al. 2019) of training images.
        transduction: a kind of `transduction.transductive_scores`.
    """

    trains_on_episodes = False
    stackable_with = {"rotation_weight": 0.0, "distillation_weight": 0.0, "mixing": "none"}

    def __init__(
        self,
        backbone: Backbone,
        setting: Setting,
        *,
        head: str = "cosine",
        train_head: str = "linear",
        batch_size: int = 64,
        finetune_steps: int = 100,
        finetune_penalty: float = 1.0,
        flip_support: bool = False,
        support_copies: int = 1,
        support_augment: str = "crop_flip_jitter",
        adapt: str = "head",
        tune_steps: int = 20,
        tune_lr: float = 0.02,
        rotation_weight: float = 0.0,
        distillation_weight: float = 0.0,
        mixing: str = "none",
        transduction: str = "none",
    ) -> None:
        super().__init__(backbone, setting)
        _one_of("head", head, ("cosine", "cosine_classifier", "finetune", "ridge"))
        _one_of("train_head", train_head, ("linear", "cosine"))
        _one_of("adapt", adapt, ("head", "all"))
        _one_of("mixing", mixing, ("none", "mixup", "cutmix"))
        check_kind("pretrain.transduction", transduction)
        _at_least("batch_size", batch_size, 2)
        _at_least("finetune_steps", finetune_steps, 1)
        _at_least("tune_steps", tune_steps, 1)
        _at_least("support_copies", support_copies, 1)
        _at_least("rotation_weight", rotation_weight, 0)
        if min(finetune_penalty, tune_lr) <= 0:
            raise ConfigError("pretrain.finetune_penalty, pretrain.tune_lr: they must be positive")
        if not 0 <= distillation_weight < 1:
            raise ConfigError(f"pretrain.distillation_weight = {distillation_weight}: it must be in [0, 1)")
        if adapt == "all" and (head != "finetune" or transduction != "none"):
            raise ConfigError('pretrain.adapt = "all": only with head = "finetune" and transduction = "none"')
        self.classifier = nn.Linear(backbone.features, setting.train_classes)
        self.turns = nn.Linear(backbone.features, 4) if rotation_weight else None
        self.teacher = _frozen_copy(backbone, self.classifier) if distillation_weight else None
        self.register_buffer("outer_steps", torch.zeros((), dtype=torch.int64))
        self.outer_steps: Tensor
        self.head, self.train_head, self.batch_size = head, train_head, batch_size
        self.finetune_steps, self.finetune_penalty = finetune_steps, finetune_penalty
        self.flip_support = flip_support
        make_augment(support_augment)  # a name that it does not have is an error now
        self.support_copies, self.support_augment = support_copies, support_augment
        self.adapt, self.tune_steps, self.tune_lr = adapt, tune_steps, tune_lr
        self.rotation_weight, self.distillation_weight = rotation_weight, distillation_weight
        self.mixing = mixing
        self.transduction = transduction

    @property
    def transductive(self) -> bool:
        return super().transductive or self.transduction != "none"

    def draw(self, source: TrainingSource) -> tuple[Tensor, Tensor]:
        return source.images(self.batch_size)

    def loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The pre-training loss on images [M, C, H, W] with labels [M], and detached scalars."""
        smoothing, mixed = self.setting.label_smoothing, self._mixed(images)
        if mixed:
            images, partner, share = mixed
        scores = self._train_scores(self.classifier, self.backbone(images))
        if mixed:
            loss = mixed_loss(scores, labels, partner, share, smoothing)
        else:
            loss = cross_entropy(scores, labels, smoothing)
        metrics = {"accuracy": (scores.detach().argmax(-1) == labels).float().mean()}
        if self.teacher is not None:
            agreement = self._disagreement(scores, images)
            loss = (1 - self.distillation_weight) * loss + self.distillation_weight * agreement
            metrics["distillation"] = agreement.detach()
        if self.turns is not None:
            turns = torch.randint(4, (len(images),), device=images.device)
            rotation = F.cross_entropy(self.turns(self.backbone(rotated(images, turns))), turns)
            loss = loss + self.rotation_weight * rotation
            metrics["rotation"] = rotation.detach()
        self.outer_steps += 1
        return loss, metrics

    def _mixed(self, images: Tensor) -> Mixed | None:
        if self.mixing == "none":
            return None
        how = mixup if self.mixing == "mixup" else cutmix
        return how(images, global_generator(images.device), _MIXING_ALPHA)

    def query_logits(self, episodes: EpisodeBatch) -> Tensor:
        episodes = self.shown(episodes)
        if self.adapt == "all":
            return self._fully_tuned(episodes)
        support, query = (F.normalize(f, dim=-1) for f in embed(self.backbone, episodes))
        counted = self._counted(support, support_targets(episodes, support), support_weights(episodes))
        return transductive_scores(self.transduction, self._fit(), *counted, query)

    @property
    def fits_in_a_graph(self) -> bool:
        """Not where it changes the support images first."""
        return not self.flip_support and self.support_copies == 1

    @property
    def has_fixed_features(self) -> bool:
        return self.adapt == "head"

    def shown(self, episodes: EpisodeBatch) -> EpisodeBatch:
        augment = make_augment(self.support_augment)
        if self.support_copies > 1 and augment:
            episodes = with_copies(episodes, self.support_copies, augment)
        if self.flip_support:
            episodes = _with_more(episodes, 2, lambda images: torch.cat([images, images.flip(-1)]))
        return episodes

    def fitted(self, support: Tensor, targets: Tensor, weights: Tensor | None) -> Head:
        head = self._fit()(*self._counted(F.normalize(support, dim=-1), targets, weights))
        return lambda query: head(F.normalize(query, dim=-1))

    def _counted(self, support: Tensor, targets: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Support features and targets, where each image counts for its weight."""
        if weights is None:
            return support, targets
        counts = weights[:, None]
        if self.head == "ridge":  # least squares take the root of what an image counts for, on both sides
            return support * counts.sqrt(), targets * counts.sqrt()
        return support, targets * counts

    def _fit(self) -> Fit:
        if self.head == "cosine":
            return functools.partial(nearest_mean, metric="cosine", temperature=1 / _COSINE_SCALE)
        if self.head == "cosine_classifier":
            return functools.partial(cosine_classifier, steps=self.finetune_steps, scale=_COSINE_SCALE)
        if self.head == "finetune":
            return functools.partial(logistic, steps=self.finetune_steps, penalty=self.finetune_penalty)
        return functools.partial(ridge, penalty=self.finetune_penalty, scale=_RIDGE_SCALE)

    def _fully_tuned(self, episodes: EpisodeBatch) -> Tensor:
        tune = functools.partial(tuned_scores, self.backbone, self._fit(), steps=self.tune_steps, rate=self.tune_lr)
        return torch.cat([tune(episodes.episode(index)) for index in range(episodes.batch)])

    def _train_scores(self, classifier: nn.Linear, features: Tensor) -> Tensor:
        if self.train_head == "linear":
            return F.linear(features, classifier.weight, classifier.bias)
        return _COSINE_SCALE * F.linear(F.normalize(features, dim=-1), F.normalize(classifier.weight, dim=-1))

    def _disagreement(self, scores: Tensor, images: Tensor) -> Tensor:
        """Divergence of the teacher's softened probabilities from these, after moving the teacher a step."""
        assert self.teacher is not None
        _follow(self.teacher, (self.backbone, self.classifier), int(self.outer_steps))
        backbone, classifier = self.teacher
        assert isinstance(classifier, nn.Linear)
        with torch.no_grad():
            wanted = self._train_scores(classifier, backbone.eval()(images)) / _DISTILLATION_TEMPERATURE
        found = (scores / _DISTILLATION_TEMPERATURE).log_softmax(-1)
        divergence = F.kl_div(found, wanted.log_softmax(-1), reduction="batchmean", log_target=True)
        return _DISTILLATION_TEMPERATURE**2 * divergence


def with_copies(episodes: EpisodeBatch, copies: int, augment: Augment) -> EpisodeBatch:
    """The episodes with so many augmented copies of each support image in its place, class-major as before.

    Every class of every episode gets the same draws, so that a score depends neither on how tasks are batched nor on
    the order of classes, and the same model gives the same scores.
    """

    def copied(images: Tensor) -> Tensor:
        return augment(images.repeat(copies, 1, 1, 1), torch.Generator().manual_seed(_COPIES_SEED))

    return _with_more(episodes, copies, copied)


def _with_more(episodes: EpisodeBatch, times: int, more: Callable[[Tensor], Tensor]) -> EpisodeBatch:
    """The episodes with so many times as many support images: what `more` makes of those of a class [K, C, H, W]."""
    classes = by_class(episodes.support_x, episodes)  # N of (B, K, C, H, W)
    return replace(
        episodes,
        support_x=torch.cat([torch.stack([more(images) for images in of_class]) for of_class in classes], 1),
        support_y=episodes.support_y.repeat_interleave(times, 1),
        shots=tuple(times * shot for shot in episodes.shots) if episodes.shots else None,
    )


def _frozen_copy(*modules: nn.Module) -> nn.ModuleList:
    return nn.ModuleList(copy.deepcopy(module) for module in modules).requires_grad_(False)


def _follow(teacher: nn.ModuleList, student: tuple[nn.Module, ...], steps: int) -> None:
    """Move the average; in the first steps it follows fast, so that it never holds the random start."""
    share = 1 - min(_TEACHER_DECAY, steps / (steps + 10))
    with torch.no_grad():
        for average, module in zip(teacher, student, strict=True):
            for kept, weight in zip(average.parameters(), module.parameters(), strict=True):
                kept.lerp_(weight, share)
            for statistic, new in zip(average.buffers(), module.buffers(), strict=True):
                statistic.copy_(new)


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    require_one_of(f"pretrain.{option}", value, allowed)


def _at_least(option: str, value: float, least: float) -> None:
    if value < least:
        raise ConfigError(f"pretrain.{option} = {value}: it must be at least {least}")
