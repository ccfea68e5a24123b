"""What may be added to any learner's outer step: terms on its features, sharpness, adversarial episodes.

A learner leaves the gradient of its own loss; this adds to it, from the same batch. It does not know
which learner it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.attacks import Attack, PixelRange
from autometa.learning.device import random_states, replayed
from autometa.learning.learner import Learner, TrainingSource
from autometa.learning.normalization import Layout
from autometa.records import Scalar

# How far the weights go uphill before the second gradient is taken; Zhao et al. 2022 use 0.05 on CIFAR.
_ASCENT_RADIUS = 0.05
_LEAST_VARIATION = 1e-5


@dataclass(frozen=True)
class ObjectiveOptions:
    """Additions to the training loss; zero leaves one out.

    Args:
        contrastive_weight: of the supervised contrastive loss on the backbone's features (Khosla et al. 2020).
        contrastive_temperature: divides its cosines.
        covariance_weight: of the penalty on correlations between features.
        gradient_penalty: of the gradient's norm, in [0, 1]: the share of the gradient that is taken uphill
            (Zhao, Zhang & Hu 2022; 1 is sharpness-aware minimisation, Foret et al. 2021). Doubles the cost.
        attack_epsilon: bound of adversarial changes of query images, a share of the intensity range.
        attack_steps: their gradient steps; 1 is FGSM.
    """

    stackable_with: ClassVar[Mapping[str, Scalar]] = {
        "contrastive_weight": 0.0,
        "covariance_weight": 0.0,
        "gradient_penalty": 0.0,
        "attack_epsilon": 0.0,
    }

    contrastive_weight: float = 0.0
    contrastive_temperature: float = 0.1
    covariance_weight: float = 0.0
    gradient_penalty: float = 0.0
    attack_epsilon: float = 0.0
    attack_steps: int = 1

    def __post_init__(self) -> None:
        for name in ("contrastive_weight", "covariance_weight", "attack_epsilon"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} = {getattr(self, name)}: it must be at least 0")
        if self.contrastive_temperature <= 0:
            raise ConfigError(f"contrastive_temperature = {self.contrastive_temperature}: it must be positive")
        if not 0 <= self.gradient_penalty <= 1:
            raise ConfigError(f"gradient_penalty = {self.gradient_penalty}: it must be in [0, 1]")
        if self.attack_epsilon:
            Attack(self.attack_epsilon, self.attack_steps)


class Objective:
    """An outer step with the additions of `options`.

    Args:
        pixels: the range of intensities in normalised units, for attacks.
        generator: draws the random starts of attacks.
    """

    def __init__(self, options: ObjectiveOptions, pixels: PixelRange, generator: torch.Generator) -> None:
        self._options = options
        self._pixels = pixels
        self._generator = generator
        self._attack = Attack(options.attack_epsilon, options.attack_steps) if options.attack_epsilon else None

    def outer_step(self, learner: Learner, source: TrainingSource) -> dict[str, Tensor]:
        """Leave the whole gradient in every parameter's `.grad`; returns detached scalars with `loss`."""
        batch = _Batch(source, learner, self)
        drawn = random_states(next(learner.parameters()).device)
        metrics = self._step(learner, batch)
        share = self._options.gradient_penalty
        if share:
            here = {p: p.grad.clone() for p in learner.parameters() if p.grad is not None}
            learner.zero_grad(set_to_none=True)
            with _moved_uphill(learner, here), replayed(drawn):
                self._step(learner, batch)
            for parameter, gradient in here.items():
                assert parameter.grad is not None
                parameter.grad.lerp_(gradient, 1 - share)
        return metrics

    def attacked(self, learner: Learner, episodes: EpisodeBatch) -> EpisodeBatch:
        """The episodes with adversarial query images, if the options ask for them."""
        return self._attack(learner, episodes, self._pixels, self._generator) if self._attack else episodes

    def _step(self, learner: Learner, batch: _Batch) -> dict[str, Tensor]:
        metrics = learner.outer_step(batch)
        terms = self._terms(learner, *batch.labelled())
        if terms:
            total = torch.stack([weight * value for weight, value in terms.values()]).sum()
            total.backward()
            metrics["loss"] = metrics["loss"] + total.detach()
            metrics |= {name: value.detach() for name, (_, value) in terms.items()}
        return metrics

    def _terms(self, learner: Learner, images: Tensor, labels: Tensor) -> dict[str, tuple[float, Tensor]]:
        """Weight and value of each additional term on images [B, M, C, H, W] with labels [B, M]."""
        options, terms = self._options, {}
        if not (options.contrastive_weight or options.covariance_weight):
            return {}
        layout = Layout(tasks=len(images), support=images.shape[1])
        features = learner.backbone(images.flatten(0, 1), layout).unflatten(0, images.shape[:2])
        if options.contrastive_weight:
            value = supervised_contrastive(features, labels, options.contrastive_temperature)
            terms["contrastive"] = (options.contrastive_weight, value)
        if options.covariance_weight:
            terms["covariance"] = (options.covariance_weight, correlation_penalty(features.flatten(0, 1)))
        return terms


def supervised_contrastive(features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Khosla et al. 2020, equation 2, on features [B, M, D] with labels [B, M]; batches do not mix.

    An image that is the only one of its class has no positive and does not count.
    """
    unit = F.normalize(features, dim=-1)
    itself = torch.eye(labels.shape[1], dtype=torch.bool, device=labels.device)
    log_share = (unit @ unit.mT / temperature).masked_fill(itself, -torch.inf).log_softmax(-1)
    positive = (labels[:, :, None] == labels[:, None]) & ~itself
    counts = positive.sum(-1)
    per_image = -log_share.masked_fill(~positive, 0).sum(-1) / counts.clamp(min=1)
    return per_image.sum() / (counts > 0).sum().clamp(min=1)


def correlation_penalty(features: Tensor) -> Tensor:
    """Mean squared correlation between different features of [M, D], in [0, 1].

    Through the smaller of two Gram matrices, which have the same norm.

    The covariance term of VICReg (Bardes et al. 2022) on standardised features, as in Barlow Twins (Zbontar
    et al. 2021), so that it cannot be lowered by making all features small.
    """
    width = features.shape[1]
    centred = features - features.mean(0)
    # A feature that is almost constant does not count: its gradient would be without bound.
    unit = centred / (centred.square().sum(0) + _LEAST_VARIATION).sqrt()
    gram = unit.mT @ unit if width <= len(unit) else unit @ unit.mT
    off_diagonal = gram.square().sum() - unit.square().sum(0).square().sum()
    return off_diagonal / max(1, width * (width - 1))


@contextmanager
def _moved_uphill(learner: Learner, gradient: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Weights moved along the gradient by a fixed length; they and all buffers are put back afterwards."""
    norm = torch.stack([g.square().sum() for g in gradient.values()]).sum().sqrt().clamp(min=1e-12)
    with _restored([*learner.parameters(), *learner.buffers()]):
        with torch.no_grad():
            for parameter, slope in gradient.items():
                parameter.add_(slope * (_ASCENT_RADIUS / norm))
        yield


@contextmanager
def _restored(tensors: Iterable[Tensor]) -> Iterator[None]:
    """What happens to these tensors inside is undone."""
    before = [(tensor, tensor.detach().clone()) for tensor in tensors]
    yield
    with torch.no_grad():
        for tensor, value in before:
            tensor.copy_(value)


class _Batch:
    """Passes one batch on to a learner, attacked if asked, and keeps it for a second look.

    Attacks leave no trace in running statistics.
    """

    def __init__(self, source: TrainingSource, learner: Learner, objective: Objective) -> None:
        self._source = source
        self._learner = learner
        self._objective = objective
        self._episodes: EpisodeBatch | None = None
        self._images: tuple[Tensor, Tensor] | None = None

    def episodes(self) -> EpisodeBatch:
        if self._episodes is None:
            clean = self._source.episodes()
            with _restored(self._learner.buffers()):
                self._episodes = self._objective.attacked(self._learner, clean)
        return self._episodes

    def images(self, count: int) -> tuple[Tensor, Tensor]:
        if self._images is None:
            self._images = self._source.images(count)
        return self._images

    def labelled(self) -> tuple[Tensor, Tensor]:
        """Images [B, M, C, H, W] and labels [B, M] of what the learner took."""
        if self._images is not None:
            return self._images[0][None], self._images[1][None]
        episodes = self.episodes()
        images = torch.cat([episodes.support_x, episodes.query_x], 1)
        return images, torch.cat([episodes.support_y, episodes.query_y], 1)
