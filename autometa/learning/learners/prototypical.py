"""Prototypical networks: a query image belongs to the class whose mean support feature is nearest."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.head_learner import HeadLearner
from autometa.learning.heads import Fit, Head, nearest_mean
from autometa.learning.learner import EpisodicLearner, Setting, embed, support_targets
from autometa.learning.transduction import check_kind, transductive_scores


class Prototypical(EpisodicLearner, HeadLearner):
    """Snell, Swersky & Zemel 2017, Prototypical networks for few-shot learning.

    Args:
        temperature: divides the scores; for squared distances it is in units of the root of the number of
            features (this project's choice, so that one range fits small and large backbones).
        learned_temperature: learn it, from that start (as the scale in Lee et al. 2019).
        metric: "euclidean" (squared distance, as in the paper) or "cosine".
        transduction: a kind of `transductive_scores`, used where queries are scored, not in the training loss.
    """

    def __init__(
        self,
        backbone: Backbone,
        setting: Setting,
        *,
        temperature: float = 0.1,
        learned_temperature: bool = False,
        metric: str = "euclidean",
        transduction: str = "none",
    ) -> None:
        super().__init__(backbone, setting)
        if temperature <= 0:
            raise ConfigError(f"prototypical.temperature = {temperature}: it must be positive")
        if metric not in ("euclidean", "cosine"):
            raise ConfigError(f"prototypical.metric = {metric!r}: it may be euclidean | cosine")
        check_kind("prototypical.transduction", transduction)
        log = torch.tensor(math.log(temperature))
        self.log_temperature = nn.Parameter(log) if learned_temperature else None
        self.temperature = temperature
        self.metric = metric
        self.transduction = transduction

    @property
    def transductive(self) -> bool:
        return super().transductive or self.transduction != "none"

    def scores(self, episodes: EpisodeBatch) -> Tensor:
        return self._scores(episodes, "none")

    def query_logits(self, episodes: EpisodeBatch) -> Tensor:
        return self._scores(episodes, self.transduction)

    def _scores(self, episodes: EpisodeBatch, kind: str) -> Tensor:
        support, query = embed(self.backbone, episodes)
        return transductive_scores(kind, self._fit(), support, support_targets(episodes, support), query)

    def fitted(self, support: Tensor, targets: Tensor, weights: Tensor | None) -> Head:
        return self._fit()(support, targets)  # means of classes count alike by themselves

    def _fit(self) -> Fit:
        temperature = self.temperature if self.log_temperature is None else self.log_temperature.exp()
        return functools.partial(nearest_mean, metric=self.metric, temperature=temperature)
