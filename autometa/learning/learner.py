"""The interface every learner implements. A learner does not know that it is being searched.

Symbols: B episodes in a batch, N way, K shot, Q query images a class; C, H, W of an image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.backbones.pretrained import Pretrained
from autometa.learning.losses import cross_entropy
from autometa.learning.normalization import Film, Layout, Norm
from autometa.learning.seen_images import SeenImages
from autometa.records import Scalar

# Of images that go through a backbone at once where no gradient is wanted, height times width: 2,048 of 32 x 32 through
# 64 channels take half a gigabyte. An episode of all images that somebody has would otherwise take any amount.
_PIXELS_AT_ONCE = 2**21
_ROWS_AT_ONCE = 256  # of frozen networks that are read by further layers
_STATISTICS_OF_OTHERS = ("support", "transductive")


class TrainingSource(Protocol):
    """Where a learner gets its training data: drawn from the train classes, augmented, on the device."""

    def episodes(self) -> EpisodeBatch:
        """The next batch of B training episodes."""
        ...

    def images(self, count: int) -> tuple[Tensor, Tensor]:
        """`count` images [count, C, H, W] of any train classes, and their class indices [count]."""
        ...


@dataclass(frozen=True)
class Setting:
    """What a learner must know of its task before it sees an image."""

    way: int  # classes in an evaluation episode
    train_classes: int  # classes of the train split, and of the images that `TrainingSource.images` gives
    label_smoothing: float = 0.0  # of the training loss, in [0, 1)


class Learner(nn.Module, ABC):
    """A few-shot learner: a backbone and a way to adapt it to a task.

    A subclass takes `(backbone, setting, *, options...)`; its keyword-only arguments are the options a
    search may set. In inductive mode nothing of the query set influences the prediction for another
    query image.

    Attributes:
        stackable_with: own options, each with the one value that lets many candidates train as one model. Other values
            draw random numbers, add terms or keep more weights. None: they always train alone.
        inductive_with: own options, each with the one value that keeps query images apart. By default `transduction`,
            where the learner has that option.
        class_order_invariant_with: own options, each with the one value under which permuted class labels give permuted
            scores. None: the scores always depend on which class has which number.
    """

    stackable_with: ClassVar[Mapping[str, Scalar] | None] = None
    inductive_with: ClassVar[Mapping[str, Scalar]] = {"transduction": "none"}
    class_order_invariant_with: ClassVar[Mapping[str, Scalar] | None] = {}

    backbone_name = ""  # of the backbone where a configuration names none; empty for the first of the table
    is_trained = True  # whether there are outer steps; else `see` is all that it learns
    trains_on_episodes = True  # whether `outer_step` takes episodes, not plain images
    averages_over_episodes = False  # whether its gradient is that mean over a batch that parts of it give, too
    progress = 0.0  # part of its training that is spent, in [0, 1]: the training loop says so before each outer step

    def __init__(self, backbone: Backbone, setting: Setting) -> None:
        super().__init__()
        self.backbone = backbone
        self.setting = setting

    @abstractmethod
    def outer_step(self, source: TrainingSource) -> dict[str, Tensor]:
        """Leave the gradient of one outer step in every parameter's `.grad`; returns detached scalars.

        They include `loss`. The training loop zeroes gradients before, and clips and applies them after.
        """

    @property
    def sees(self) -> int:
        """How many training images `see` takes at least; 0 where it needs none."""
        return 0

    def see(self, source: TrainingSource) -> None:
        """Take from training images what outer steps do not learn; called once, before the first of them."""

    @abstractmethod
    def query_logits(self, episodes: EpisodeBatch) -> Tensor:
        """Adapt to each support set and score its query images: [B, N·Q, N].

        The caller says whether with gradient: an attack needs the one in the query images.
        """

    @property
    def phases(self) -> Sequence[float]:
        """Where outer steps begin to cost something else: values of `progress` between 0 and 1, ascending.

        All outer steps between two of them do as many operations.
        """
        return ()

    @property
    def transductive(self) -> bool:
        """Whether query images influence each other's predictions."""
        return any(isinstance(m, Norm) and m.mode == "transductive" for m in self.modules())


class LossLearner(Learner):
    """A learner whose outer step is the gradient of one loss of one batch, so that many can be trained as one."""

    stackable_with: ClassVar[Mapping[str, Scalar] | None] = {}

    @abstractmethod
    def draw(self, source: TrainingSource) -> tuple[Any, ...]:
        """The next batch as the arguments of `loss`: one `EpisodeBatch`, or tensors."""

    @abstractmethod
    def loss(self, *drawn: Any, **_: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The meta-training loss of what was drawn, a scalar, and detached scalars worth watching."""

    def outer_step(self, source: TrainingSource) -> dict[str, Tensor]:
        loss, metrics = self.loss(*self.draw(source))
        loss.backward()
        return {"loss": loss.detach(), **metrics}


class EpisodicLearner(LossLearner):
    """A learner that is trained as it is used: one differentiable function scores the queries of an episode."""

    averages_over_episodes = True

    def draw(self, source: TrainingSource) -> tuple[EpisodeBatch]:
        return (source.episodes(),)

    @abstractmethod
    def scores(self, episodes: EpisodeBatch) -> Tensor:
        """Adapt to each support set and score its query images: [B, N·Q, N], differentiable."""

    def loss(self, episodes: EpisodeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The meta-training loss, a scalar averaged over B, and detached scalars worth watching."""
        return query_loss(self.scores(episodes), episodes, self.setting.label_smoothing)

    def query_logits(self, episodes: EpisodeBatch) -> Tensor:
        return self.scores(episodes)


def embed(backbone: Backbone, episodes: EpisodeBatch, film: Film | None = None) -> tuple[Tensor, Tensor]:
    """Features of support [B, N·K, D] and query [B, N·Q, D], in one pass through the backbone.

    Where it is known what a frozen network says of these images, it does not run.
    """
    known = episodes.rows_of(backbone.key) if isinstance(backbone, Pretrained) and backbone.key else None
    if known is None:
        return _one_pass(backbone, backbone, episodes, film)
    assert isinstance(backbone, Pretrained)
    rows = torch.cat(known, 1)  # (B, N·(K+Q), W)
    layout = Layout(tasks=episodes.batch, support=known[0].shape[1], film=film)
    features = _read(backbone, rows.flatten(0, 1), layout).unflatten(0, rows.shape[:2])
    return features[:, : layout.support], features[:, layout.support :]


def _read(backbone: Pretrained, rows: Tensor, layout: Layout) -> Tensor:
    """Features [M, D] of what a frozen network says of images [M, W]."""
    if not backbone.reads_by_layers or layout.film is not None or not _takes_parts(backbone):
        return backbone.read(rows, layout)

    def in_parts(unseen: Tensor) -> Tensor:
        return torch.cat([backbone.read(part) for part in unseen.split(_ROWS_AT_ONCE)])

    if backbone.seen and backbone.seen.serves(backbone, rows):
        return backbone.seen.features(rows, in_parts)
    return in_parts(rows)


@contextmanager
def each_image_once(learner: Learner) -> Iterator[list[SeenImages]]:
    """Keep what `embed` finds of an image while this lasts, with weights that nobody changes meanwhile.

    Inside of another one of the same learner it does nothing.
    """
    backbones = [m for m in learner.modules() if isinstance(m, Backbone) and m.seen is None]
    memories = [SeenImages(backbone) for backbone in backbones]
    for backbone, memory in zip(backbones, memories, strict=True):
        backbone.seen = memory
    try:
        yield memories
    finally:
        for backbone in backbones:
            backbone.seen = None


def embed_maps(backbone: Backbone, episodes: EpisodeBatch) -> tuple[Tensor, Tensor]:
    """Feature maps of support [B, N·K, C, H, W] and query [B, N·Q, C, H, W], in one pass."""
    return _one_pass(backbone, backbone.maps, episodes, None)


def _one_pass(
    backbone: Backbone, of: Callable[[Tensor, Layout], Tensor], episodes: EpisodeBatch, film: Film | None
) -> tuple[Tensor, Tensor]:
    images = torch.cat([episodes.support_x, episodes.query_x], dim=1)  # (B, N·(K+Q), C, H, W)
    supports = episodes.support_x.shape[1]
    layout = Layout(tasks=episodes.batch, support=supports, film=film)
    flat = images.flatten(0, 1)
    if film is not None or not _takes_parts(backbone):
        features = of(flat, layout)
    elif of is backbone and backbone.seen and backbone.seen.serves(backbone, flat):
        features = backbone.seen.features(flat, lambda unseen: _in_parts(of, unseen, layout))
    else:
        features = _in_parts(of, flat, layout)
    features = features.unflatten(0, images.shape[:2])
    return features[:, :supports], features[:, supports:]


def _in_parts(of: Callable[[Tensor, Layout], Tensor], images: Tensor, layout: Layout) -> Tensor:
    at_once = max(1, _PIXELS_AT_ONCE // images[0, 0].numel())
    return torch.cat([of(part, layout) for part in images.split(at_once)])


def _takes_parts(backbone: Backbone) -> bool:
    """Whether features of an image do not depend on the others of its batch, and no gradient is wanted."""
    if torch.is_grad_enabled() or backbone.training or torch.compiler.is_compiling():
        return False
    return not mixes_images(backbone)


def mixes_images(backbone: nn.Module) -> bool:
    """Whether features of an image depend on others of its batch in evaluation."""
    return any(isinstance(m, Norm) and m.mode in _STATISTICS_OF_OTHERS for m in backbone.modules())


def class_means(support: Tensor, episodes: EpisodeBatch) -> Tensor:
    """Mean over each class's shots of what the support images have: [B, N·K, …] to [B, N, …]."""
    if episodes.shots is None:
        return support.unflatten(1, (episodes.way, -1)).mean(2)
    return torch.stack([part.mean(1) for part in by_class(support, episodes)], 1)


def by_class(support: Tensor, episodes: EpisodeBatch, dim: int = 1) -> tuple[Tensor, ...]:
    """What the support images have, along an axis of N·K, in N parts of each class's K; shots may differ."""
    images = episodes.support_x.shape[1]
    return support.split(list(episodes.shots) if episodes.shots else images // episodes.way, dim)


def support_weights(episodes: EpisodeBatch) -> Tensor | None:
    """What each support image counts for, [N·K] with mean 1, so that classes count alike; None where shots are even.

    Otherwise a fitted head takes most images for the class that has most: of 5 classes with 1, 1, 1, 50 and 200
    support images, logistic regression tells the first three from nothing.
    """
    weights = class_weights(episodes)
    return None if weights is None else weights[episodes.support_y[0]]


def class_weights(episodes: EpisodeBatch) -> Tensor | None:
    """The same of an image of each class, [N]."""
    if episodes.shots is None:
        return None
    shots = torch.tensor(episodes.shots, device=episodes.support_x.device, dtype=episodes.support_x.dtype)
    return shots.mean() / shots


def support_targets(episodes: EpisodeBatch, like: Tensor) -> Tensor:
    """One-hot support labels [B, N·K, N] in the type of `like`."""
    return F.one_hot(episodes.support_y, episodes.way).to(like)


def query_loss(
    logits: Tensor, episodes: EpisodeBatch, label_smoothing: float = 0.0
) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy and accuracy of query logits [B, N·Q, N]."""
    loss = cross_entropy(logits.flatten(0, 1), episodes.query_y.flatten(), label_smoothing)
    accuracy = (logits.detach().argmax(-1) == episodes.query_y).float().mean()
    return loss, {"accuracy": accuracy}
