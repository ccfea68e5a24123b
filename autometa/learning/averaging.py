"""Weights averaged over the latest part of training, by which a model is measured wherever its training may stop.

With a constant learning rate the weights move around a good place; their average lies nearer to it. The average takes
the place of a learning rate that falls towards an end that must be known in advance.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from autometa.learning.learner import Learner


class AveragedWeights:
    """The polynomial-decay average of a learner's weights and statistics (Shamir & Zhang 2013, ICML).

    After t steps the latest weights count (window + 1) / (t + window): the average spans about the last 1/window of all
    steps, however many there are.

    Args:
        learner: whose weights are averaged, on its device.
        window: 1 or more; a greater one averages over fewer of the latest steps.
    """

    def __init__(self, learner: Learner, window: float) -> None:
        self._window = window
        self._average = AveragedModel(learner, avg_fn=self._mean, use_buffers=True)

    @property
    def learner(self) -> Learner:
        """The learner with averaged weights; it shares nothing with the one that is trained."""
        learner = self._average.module
        assert isinstance(learner, Learner)
        return learner

    @property
    def steps(self) -> int:
        """How many outer steps are averaged."""
        return int(self._average.n_averaged)

    def update(self, learner: Learner) -> None:
        """Take in the weights after one more outer step."""
        self._average.update_parameters(learner)

    def resume(self, steps: int) -> None:
        """Go on as after so many steps, with the weights that `learner` was given."""
        self._average.n_averaged.fill_(steps)

    def _mean(self, average: Tensor, latest: Tensor, steps: Tensor | int) -> Tensor:
        if not average.is_floating_point():
            return latest
        share = (self._window + 1) / (int(steps) + 1 + self._window)
        return torch.lerp(average, latest, share)
