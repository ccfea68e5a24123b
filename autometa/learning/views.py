"""Views of an episode: all its images mirrored, or turned as well, so that its classes stay what they are.

The mean over views is surer than one view (Krizhevsky et al. 2012 average crops and reflections in the same way). An
episode allows more than a photograph does: characters that are turned together are as well told apart as upright ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.learning.learner import Learner
from autometa.learning.symmetries import VIEWS


def seen(images: Tensor, view: int) -> Tensor:
    """Images [..., H, W] in one view, a number of `VIEWS`; turning takes H = W."""
    mirrored = images.flip(-1) if view >= 4 else images
    return torch.rot90(mirrored, view % 4, (-2, -1)) if view % 4 else mirrored


def view_logits(learner: Learner, episodes: EpisodeBatch, view: int) -> Tensor:
    """Log probabilities [B, N·Q, N] that a learner gives where it sees support and query in one view."""
    shown = replace(episodes, support_x=seen(episodes.support_x, view), query_x=seen(episodes.query_x, view))
    return F.log_softmax(learner.query_logits(shown), -1)


def mean_logits(learner: Learner, episodes: EpisodeBatch, views: str) -> Tensor:
    """The learner's logits [B, N·Q, N], as the mean of log probabilities over views of this name in `VIEWS`."""
    return mean_of([view_logits(learner, episodes, view) for view in VIEWS[views]])


def mean_of(logits: Sequence[Tensor]) -> Tensor:
    """Of log probabilities of the same shape."""
    return torch.stack(list(logits)).mean(0)
