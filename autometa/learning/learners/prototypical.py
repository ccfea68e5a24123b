"""Prototypical networks: a query image belongs to the class whose mean support feature is nearest."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.learner import EpisodicLearner, Setting, class_means, embed


class Prototypical(EpisodicLearner):
    """Snell, Swersky & Zemel 2017, Prototypical networks for few-shot learning.

    Args:
        temperature: divides the scores; for squared distances it is in units of the root of the number of
            features (this project's choice, so that one range fits small and large backbones).
        metric: "euclidean" (squared distance, as in the paper) or "cosine".
    """

    def __init__(
        self, backbone: Backbone, setting: Setting, *, temperature: float = 0.1, metric: str = "euclidean"
    ) -> None:
        super().__init__(backbone, setting)
        if temperature <= 0:
            raise ConfigError(f"prototypical.temperature = {temperature}: it must be positive")
        if metric not in ("euclidean", "cosine"):
            raise ConfigError(f"prototypical.metric = {metric!r}: it may be euclidean | cosine")
        self.temperature = temperature
        self.metric = metric

    def scores(self, episodes: EpisodeBatch) -> Tensor:
        support, query = embed(self.backbone, episodes)
        prototypes = class_means(support, episodes.way)  # (B, N, D)
        if self.metric == "cosine":
            return F.normalize(query, dim=-1) @ F.normalize(prototypes, dim=-1).mT / self.temperature
        # |q - p|² without the term |q|², which is the same for every class.
        distances = prototypes.square().sum(-1)[:, None] - 2 * query @ prototypes.mT  # (B, N·Q, N)
        return -distances / (self.temperature * query.shape[-1] ** 0.5)
