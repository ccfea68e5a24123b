"""Adversarial query images: the worst that small changes of pixels do to an adapted learner.

The support set stays clean (adversarial querying, Goldblum et al. 2020). Perturbations are bounded in the
largest change of a pixel, as a share of the range of intensities; images stay within that range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.learner import Learner

_STEP_SHARE = 2.5  # a step of PGD is 2.5 ε / steps, so that any corner of the box can be reached (Madry et al. 2018)


@dataclass(frozen=True)
class PixelRange:
    """Black and white in normalised units, a channel at a time: each [C, 1, 1]."""

    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float], device: torch.device | str = "cpu") -> PixelRange:
        """The range of images that were normalised by this mean and deviation, both in [0, 1]."""
        mean_, std_ = (torch.tensor(x, dtype=torch.float32, device=device)[:, None, None] for x in (mean, std))
        return cls(low=-mean_ / std_, high=(1 - mean_) / std_)

    def clamp(self, images: Tensor) -> Tensor:
        """Images cut to the range."""
        return torch.minimum(torch.maximum(images, self.low), self.high)


@dataclass(frozen=True)
class Attack:
    """FGSM with one step (Goodfellow et al. 2015), projected gradient descent from a random start with more.

    Args:
        epsilon: the largest change of a pixel, in [0, 1], for example 8 / 255; 0 changes nothing, to the bit.
        steps: gradient steps, at least 1.
    """

    epsilon: float
    steps: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon <= 1:
            raise ConfigError(f"attack_epsilon = {self.epsilon}: it must be in [0, 1], for example 0.031 for 8/255")
        if self.steps < 1:
            raise ConfigError(f"attack_steps = {self.steps}: it must be at least 1")

    def __call__(
        self, learner: Learner, episodes: EpisodeBatch, pixels: PixelRange, generator: torch.Generator
    ) -> EpisodeBatch:
        """The same episodes with query images [B, N·Q, C, H, W] changed to raise the cross-entropy.

        The learner keeps its mode, and no gradient is left in its parameters.
        """
        radius = self.epsilon * (pixels.high - pixels.low)  # (C, 1, 1), in normalised units
        # Colour jitter may have left the range; then the image itself is the bound.
        clean = episodes.query_x
        pixels = PixelRange(torch.minimum(pixels.low, clean), torch.maximum(pixels.high, clean))
        changed = clean
        if self.steps > 1:
            drawn = torch.rand(clean.shape, generator=generator, device=generator.device).to(clean)
            changed = pixels.clamp(clean + (2 * drawn - 1) * radius)
        step = radius if self.steps == 1 else _STEP_SHARE * radius / self.steps
        for _ in range(self.steps):
            uphill = _gradient(learner, replace(episodes, query_x=changed)).sign()
            changed = pixels.clamp(torch.clamp(changed + step * uphill, clean - radius, clean + radius))
        return replace(episodes, query_x=changed)


def _gradient(learner: Learner, episodes: EpisodeBatch) -> Tensor:
    """Of the summed cross-entropy in the query images."""
    with torch.enable_grad():
        query = episodes.query_x.detach().requires_grad_()
        logits = learner.query_logits(replace(episodes, query_x=query))
        loss = F.cross_entropy(logits.flatten(0, 1), episodes.query_y.flatten(), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, [query])
    return gradient
