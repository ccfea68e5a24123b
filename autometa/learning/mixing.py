"""Mixing the images of a classifier's batch, and the loss of what comes out, all images at once.

Each image [M, C, H, W] has a partner in its batch and a share in [0, 1] of its own: what remains of it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Gamma

from autometa.errors import ConfigError
from autometa.learning.device import drawing_from
from autometa.learning.losses import cross_entropy

Mixed = tuple[Tensor, Tensor, Tensor]  # images (M, C, H, W), index of each one's partner (M,), its share (M,)


def mixup(images: Tensor, generator: torch.Generator, alpha: float) -> Mixed:
    """Each image as the mean of itself and its partner, weighted by a share from Beta(α, α) (Zhang et al. 2018)."""
    partner = _partners(images, generator)
    share = _shares(images, generator, alpha)
    return torch.lerp(images[partner], images, share[:, None, None, None]), partner, share


def cutmix(images: Tensor, generator: torch.Generator, alpha: float) -> Mixed:
    """Each image with a box of its partner's pixels pasted in (Yun et al. 2019).

    A draw λ from Beta(α, α) gives the box the sides √(1-λ)·H and √(1-λ)·W, with its centre anywhere; it is cut at
    the borders, and the share is that of the pixels that stay.
    """
    height, width = images.shape[-2:]
    partner = _partners(images, generator)
    side = (1 - _shares(images, generator, alpha)).sqrt()  # of the box, relative to the image
    pasted = _span(height, side, generator)[:, :, None] & _span(width, side, generator)[:, None]  # (M, H, W)
    share = 1 - pasted.sum((1, 2)).to(images.dtype) / (height * width)
    return torch.where(pasted[:, None], images[partner], images), partner, share


def mixed_loss(logits: Tensor, labels: Tensor, partner: Tensor, share: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Mean of share · CE(y) + (1 - share) · CE(y of the partner) over mixed images, from logits [M, classes]."""
    own, other = (cross_entropy(logits, y, label_smoothing, reduction="none") for y in (labels, labels[partner]))
    return torch.lerp(other, own, share).mean()


def _partners(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randperm(len(images), generator=generator, device=generator.device).to(images.device)


def _shares(images: Tensor, generator: torch.Generator, alpha: float) -> Tensor:
    """Draws from Beta(α, α), [M], as shares of two draws from a gamma distribution."""
    if not alpha > 0:
        raise ConfigError(f"alpha = {alpha}: it must be positive")
    # In float64 a small α does not make both draws zero.
    concentration = torch.full((2, len(images)), alpha, dtype=torch.float64, device=generator.device)
    with drawing_from(generator):
        own, other = Gamma(concentration, torch.ones_like(concentration), validate_args=False).sample()
    return (own / (own + other)).to(images)


def _span(length: int, side: Tensor, generator: torch.Generator) -> Tensor:
    """Which of `length` places a box covers in one direction, its sides [M] relative to the length: [M, length]."""
    size = (side * length).long()
    centre = torch.randint(length, side.shape, generator=generator, device=generator.device).to(side.device)
    first = (centre - size // 2)[:, None]
    places = torch.arange(length, device=side.device)
    return (places >= first) & (places < first + size[:, None])
