"""Learners that fit a head to features of the support images, and leave the features as they are."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from autometa.data.episodes import EpisodeBatch
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.heads import Head


class HeadLearner(ABC):
    """What a learner is in addition whose answer is a head on features, so that the two can be used apart.

    Symbols: B episodes, M support images, N classes, D features.
    """

    backbone: Backbone

    @property
    def fits_in_a_graph(self) -> bool:
        """Whether `fitted` is one graph of common operations for any number of images, and takes them as they are."""
        return True

    @property
    def has_fixed_features(self) -> bool:
        """Whether a task leaves the features as they are."""
        return True

    def described(self, features: Tensor) -> Tensor:
        """Features [..., D] as heads take them, of those [..., D'] that the backbone gives; by default the same."""
        return features

    @abstractmethod
    def fitted(self, support: Tensor, targets: Tensor, weights: Tensor | None) -> Head:
        """The head of a task, for features as `described` gives them.

        Args:
            support: features [B, M, D].
            targets: one-hot labels [B, M, N].
            weights: what each support image counts for, [M] with mean 1; None where classes have as many images.
        """

    def shown(self, episodes: EpisodeBatch) -> EpisodeBatch:
        """The episodes with the support images that the head is fitted to, by default as they are."""
        return episodes
