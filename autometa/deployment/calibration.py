"""What probabilities are worth, found out on validation episodes that are like the task at hand.

A temperature makes probabilities honest (Guo et al. 2017, ICML). Where classes have different numbers of labelled
images, those with few score too low, or too high: a second number puts that right. A threshold on a score says which
images are of none of the classes: so many images of known classes fall below it as the user allows. Of several scores
the one is taken that recognises most images of unknown classes there.

Symbols: E episodes, Q query images, N classes, V validation classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from pydantic import Field
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch, fixed_episodes
from autometa.data.image_pool import ImagePool
from autometa.deployment.likeness import SCORES
from autometa.errors import DataError
from autometa.learning import intervals
from autometa.learning.evaluation import answer_counts
from autometa.learning.learner import Learner
from autometa.learning.scores import Scores
from autometa.records import Accuracy, EpisodeSpec, Record

_QUERY = 15
# Support images of a class beyond which an episode only takes longer.
_MOST_SHOTS = 100
# Pixels of one channel of all images together, and bounds of the number of episodes. 2^24 are 160 episodes of 5 classes
# with 5 + 15 images of 32 × 32; they cost some seconds.
_PIXELS, _FEWEST, _MOST = 2**24, 6, 200
_UNKNOWN_PART = 0.25  # of the validation classes are unknown in an episode, where that is measured
_BINS = 15
_LOG_TEMPERATURES = (-6.0, 6.0)


class TaskShape(Record):
    """Classes and labelled images of the episodes that a model is calibrated on; `unknown` classes come beside them."""

    shots: list[int] = Field(min_length=2)
    query: int = Field(ge=1)
    episodes: int = Field(ge=1)
    unknown: int = Field(0, ge=0)

    @property
    def way(self) -> int:
        """N."""
        return len(self.shots)


class Rejection(Record):
    """Below which score an image is of none of the classes.

    `recognised` is the part of images of unknown classes that each score told apart on the validation episodes, where
    it rejected `rate` of those of known classes.
    """

    rate: float = Field(gt=0, lt=1)
    score: str
    threshold: float
    recognised: dict[str, float]


class Calibration(Record):
    """What a model is worth on tasks of a shape.

    Probabilities are those of the logits, each plus `shot_bias` times the logarithm of its class's labelled images, all
    divided by `temperature`. `error` is the expected calibration error on the validation episodes, and `accuracy` that
    of the likeliest class there.
    """

    shape: TaskShape
    temperature: float = Field(gt=0)
    shot_bias: float = 0.0
    error: float = Field(ge=0, le=1)
    accuracy: Accuracy
    rejection: Rejection | None = None

    def softened(self, logits: Tensor, shots: Sequence[int]) -> Tensor:
        """Logits [..., N] whose softmax are the probabilities, of classes with so many labelled images.

        More than any class had on the validation episodes count as that many.
        """
        counted = logits.new_tensor(shots).clamp_max(max(self.shape.shots))
        return softened(logits, counted, self.temperature, self.shot_bias)


def shape_like(shots: Sequence[int], pool: ImagePool, *, with_unknown: bool) -> TaskShape:
    """The shape of validation episodes that are most like a task with so many labelled images of each class.

    They have no more classes than there are, and no more images than their classes have. Where unknown classes are
    wanted, some of the validation classes are left for them.

    Raises:
        DataError: there are too few validation classes.
    """
    unknown = max(1, int(_UNKNOWN_PART * pool.classes)) if with_unknown else 0
    way = min(len(shots), pool.classes - unknown)
    if way < 2:
        raise DataError(f"{pool.dataset.name} has {pool.classes} validation classes, too few to calibrate on")
    query = max(1, min(_QUERY, int(pool.counts.min()) // 2))
    most = max(1, min(_MOST_SHOTS, pool.most_shots(query)))
    ranked = sorted(shots)
    # Evenly spread over the classes at hand, so that few and many images are both there.
    chosen = [min(most, ranked[round(i * (len(ranked) - 1) / (way - 1))]) for i in range(way)]
    _, height, width = pool.dataset.image_shape
    images = sum(chosen) + query * way * (2 if unknown else 1)
    episodes = max(_FEWEST, min(_MOST, _PIXELS // (images * height * width)))
    return TaskShape(shots=chosen, query=query, episodes=episodes, unknown=unknown)


def episodes_of(pool: ImagePool, shape: TaskShape, seed: int) -> Iterator[EpisodeBatch]:
    """Episodes of this shape one by one.

    Query images of unknown classes come after those of known ones, as many as `query_y` lacks.
    """
    spec = EpisodeSpec(way=shape.way + shape.unknown, shot=max(shape.shots), query=shape.query)
    generator = torch.Generator().manual_seed(seed)
    for whole in fixed_episodes(pool, spec, count=shape.episodes, seed=seed, batch=1):
        # Which class has many images, and which few, is drawn; classes themselves are.
        shots = [shape.shots[i] for i in torch.randperm(shape.way, generator=generator).tolist()]
        labels = torch.arange(shape.way, device=pool.device)
        assert whole.classes is not None
        yield whole.of_images(
            torch.cat([torch.arange(shot) + n * spec.shot for n, shot in enumerate(shots)]).to(pool.device),
            torch.arange(whole.query_x.shape[1], device=pool.device),
            support_y=labels.repeat_interleave(torch.tensor(shots, device=pool.device))[None],
            query_y=labels.repeat_interleave(shape.query)[None],
            way=shape.way,
            classes=whole.classes[:, : shape.way],
            shots=shots_of(shots),
        )


def shots_of(shots: Sequence[int]) -> tuple[int, ...] | None:
    """As an episode has them: None where they are even."""
    return tuple(shots) if len(set(shots)) > 1 else None


@torch.no_grad()
def calibrated(
    learner: Learner, pool: ImagePool, shape: TaskShape, *, seed: int, reject_rate: float | None = None
) -> Calibration:
    """Temperature and threshold of a learner by its answers on validation episodes.

    Args:
        reject_rate: of images of known classes that may be taken for unknown, in (0, 1); of a shape with such classes.
    """
    logits, targets, classes, shots = [], [], [], []
    known: dict[str, list[Tensor]] = {name: [] for name in SCORES}
    unknown: dict[str, list[Tensor]] = {name: [] for name in SCORES}
    for episode in episodes_of(pool, shape, seed):
        queries = episode.query_y.shape[1]
        said = learner.query_logits(episode)
        logits.append(said[:, :queries].cpu())
        targets.append(episode.query_y.cpu())
        shots.append(torch.tensor(episode.shots or shape.shots, dtype=said.dtype)[None, None])  # (1, 1, N)
        assert episode.classes is not None
        classes.append(episode.classes)
        if reject_rate is not None:
            for name, score in SCORES.items():
                found = score(learner, episode, said)[0].cpu()
                known[name].append(found[:queries])
                unknown[name].append(found[queries:])
    raw, right, labelled = torch.cat(logits), torch.cat(targets), torch.cat(shots)
    temperature, shot_bias = fitted(raw, right, labelled)
    every = softened(raw, labelled, temperature, shot_bias)
    probabilities = every.softmax(-1).flatten(0, 1)
    scores = Scores(torch.cat(classes).numpy(), answer_counts(every, right).numpy(), pool.families, pool.images_of_task)
    return Calibration(
        shape=shape,
        temperature=temperature,
        shot_bias=shot_bias,
        error=calibration_error(probabilities.numpy(), right.flatten().numpy()),
        accuracy=intervals.accuracy(scores, seed),
        rejection=_rejection(known, unknown, reject_rate) if reject_rate is not None else None,
    )


def fitted_temperature(logits: Tensor, targets: Tensor) -> float:
    """What to divide logits [E, Q, N] by, so that the cross-entropy with the targets [E, Q] is least."""
    flat, right = logits.flatten(0, 1).double(), targets.flatten()

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(flat / math.exp(log_temperature), right))

    return math.exp(float(minimize_scalar(loss, bounds=_LOG_TEMPERATURES, method="bounded").x))


def fitted(logits: Tensor, targets: Tensor, shots: Tensor) -> tuple[float, float]:
    """Temperature and `shot_bias` (see `Calibration`) with which the cross-entropy is least; no bias of even shots.

    Args:
        logits: [E, Q, N].
        targets: [E, Q].
        shots: labelled images of each class, [E, 1, N].
    """
    temperature = fitted_temperature(logits, targets)
    if bool((shots == shots[:1, :, :1]).all()):
        return temperature, 0.0
    flat, right = logits.flatten(0, 1).double(), targets.flatten()
    amount = shots.double().log().expand(logits.shape).flatten(0, 1)

    # In the inverse temperature, and the bias divided by the temperature, it is convex.
    def loss(factors: np.ndarray) -> tuple[float, np.ndarray]:
        inverse, bias = weights = [torch.tensor(factor, requires_grad=True) for factor in factors]
        found = F.cross_entropy(inverse * flat + bias * amount, right)
        return float(found.detach()), np.array(torch.autograd.grad(found, weights))

    bounds = [(math.exp(_LOG_TEMPERATURES[0]), None), (None, None)]
    with torch.enable_grad():
        best = minimize(loss, (1 / temperature, 0.0), jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(1 / best[0]), float(best[1] / best[0])


def softened(logits: Tensor, shots: Tensor, temperature: float, shot_bias: float) -> Tensor:
    """Logits [..., N] of classes with so many labelled images [..., N], as `Calibration` says."""
    return (logits + shot_bias * shots.log() if shot_bias else logits) / temperature


def calibration_error(probabilities: np.ndarray, targets: np.ndarray) -> float:
    """Expected calibration error of [M, N] with targets [M]: confidence against accuracy, in 15 bins of equal width."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, confidence, _BINS) - np.bincount(bins, right, _BINS)
    return float(np.abs(gaps).sum() / len(targets))


def _rejection(known: dict[str, list[Tensor]], unknown: dict[str, list[Tensor]], rate: float) -> Rejection:
    thresholds = {name: float(np.quantile(torch.cat(values).numpy(), rate)) for name, values in known.items()}
    recognised = {
        name: float((torch.cat(values).double() < thresholds[name]).double().mean()) for name, values in unknown.items()
    }
    best = max(recognised, key=lambda name: recognised[name])
    return Rejection(rate=rate, score=best, threshold=thresholds[best], recognised=recognised)
