"""Supervised pre-training: an ordinary classifier of the train classes, whose features serve new classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.learner import Learner, Setting, TrainingSource, class_means, embed

_COSINE_SCALE = 10.0  # Gidaris & Komodakis 2018 start from 10; cosines alone are too flat for a softmax
# Softmax regression on features of length one is smooth with constant 1/2: steps of 2 converge, and 100 of
# them leave less than the interval of an accuracy.
_FINETUNE_RATE = 2.0


class Pretrain(Learner):
    """Chen et al. 2019, A closer look at few-shot classification; Tian et al. 2020, Rethinking few-shot image
    classification: a good embedding is all you need?

    Args:
        head: how a new task is solved on frozen features of length one: "cosine" (nearest class mean) or
            "finetune" (logistic regression with an L2 penalty, fitted to the support set).
        train_head: the classifier in pre-training, "linear" or "cosine" (Baseline++).
        batch_size: images of an outer step.
        finetune_steps: gradient steps of the "finetune" head.
        finetune_penalty: its L2 penalty relative to one support image, 1 as in scikit-learn's default.
    """

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
    ) -> None:
        super().__init__(backbone, setting)
        for option, value, allowed in (
            ("head", head, ("cosine", "finetune")),
            ("train_head", train_head, ("linear", "cosine")),
        ):
            if value not in allowed:
                raise ConfigError(f"pretrain.{option} = {value!r}: it may be {' | '.join(allowed)}")
        if batch_size < 2:
            raise ConfigError(f"pretrain.batch_size = {batch_size}: it must be at least 2")
        self.classifier = nn.Linear(backbone.features, setting.train_classes)
        self.head, self.train_head = head, train_head
        self.batch_size = batch_size
        self.finetune_steps, self.finetune_penalty = finetune_steps, finetune_penalty

    def outer_step(self, source: TrainingSource) -> dict[str, Tensor]:
        images, labels = source.images(self.batch_size)
        scores = self._train_scores(self.backbone(images))
        loss = F.cross_entropy(scores, labels, label_smoothing=self.setting.label_smoothing)
        loss.backward()
        accuracy = (scores.detach().argmax(-1) == labels).float().mean()
        return {"loss": loss.detach(), "accuracy": accuracy}

    def query_logits(self, episodes: EpisodeBatch) -> Tensor:
        support, query = (F.normalize(f, dim=-1) for f in embed(self.backbone, episodes))
        if self.head == "cosine":
            means = F.normalize(class_means(support, episodes.way), dim=-1)
            return _COSINE_SCALE * query @ means.mT
        weight, bias = self._fitted(support, episodes.support_y, episodes.way)
        return torch.baddbmm(bias[:, None], query, weight.mT)

    def _train_scores(self, features: Tensor) -> Tensor:
        if self.train_head == "linear":
            return self.classifier(features)
        return _COSINE_SCALE * F.linear(F.normalize(features, dim=-1), F.normalize(self.classifier.weight, dim=-1))

    def _fitted(self, support: Tensor, labels: Tensor, way: int) -> tuple[Tensor, Tensor]:
        """Weight [B, N, D] and bias [B, N] of one logistic regression a task, fitted by gradient steps."""
        batch, images, features = support.shape
        weight, bias = support.new_zeros(batch, way, features), support.new_zeros(batch, way)
        target = F.one_hot(labels, way).to(support.dtype)
        penalty = self.finetune_penalty / images
        rate = _FINETUNE_RATE / (1 + _FINETUNE_RATE * penalty)
        for _ in range(self.finetune_steps):
            error = (torch.baddbmm(bias[:, None], support, weight.mT).softmax(-1) - target) / images
            weight = weight - rate * (error.mT @ support + penalty * weight)
            bias = bias - rate * error.sum(1)
        return weight, bias
