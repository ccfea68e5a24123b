"""95 % intervals: over episodes, over classes or images and episodes, over training seeds too, and of a difference.

Symbols: E episodes, N way, C classes, G families of classes, U the mean accuracy of all episodes.

An interval over episodes says where the mean would lie with other episodes *of the same classes*. Papers report that
one. Where it would lie with other classes depends on how classes differ, and each class is in many episodes. The mean
accuracy is a U-statistic of order N in the classes (Hoeffding 1948), so what one class contributes shows when the
episodes that have it are left out: with U₋g of the episodes without family g,

    V = (G − 1)/G · Σ_g (U₋g − U)²        (Arvesen 1969, jackknife of U-statistics)

estimates its variance. Images nested in classes and the drawing of episodes are in it, since both differ between the
U₋g. V errs on the large side (Efron & Stein 1981). The interval is symmetric on the logit scale, with Student's t
on G − 1 degrees: near the ceiling errors come from a few confused classes, and plain ± covers .81 with 8 classes.

Where every episode has every class (C = N) no episode can be left out. Then pairs of classes stand in for episodes:
the error rate of an episode is N − 1 times the mean rate at which one class is taken for another, a U-statistic of
order 2, whose pairs without class g remain. This extrapolates from smaller episodes and overstates what pairs
contribute: with 5 classes the interval is up to twice as wide as it need be, and near the ceiling it covers .91.

Where the classes are the task's own, as when all classes of a folder are told apart, no other classes are meant. What
may differ are their images: a class of p right answers of n images adds p (1 − p) / n to the variance of the sum over
classes. The same image in several episodes counts once. A difference has the sum of both variances, since both models
named the same images.

Simulated (`benchmarks/interval_cover.py`, results/interval_cover.json), the interval covers .91 to .98 with 8 to 64
classes, and ± its longer side, which is what is printed, .94 to .98. The one over episodes alone covers .02 to .34.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autometa.learning.scores import Scores, mean_of
from autometa.records import Accuracy, ClassInterval


@dataclass(frozen=True)
class Spread:
    """A variance and the degrees of freedom it is known with."""

    variance: float
    degrees: float

    @property
    def half_width(self) -> float:
        """Of the 95 % interval."""
        return student_t(self.degrees) * self.variance**0.5 if self.degrees > 0 else math.inf


def accuracy(scores: Scores, seed: int) -> Accuracy:
    """The mean accuracy with both intervals."""
    return accuracy_of_seeds([scores], seed)


def accuracy_of_seeds(several: Sequence[Scores], seed: int) -> Accuracy:
    """The mean accuracy of one configuration trained with several seeds, all on the same episodes.

    The variance between seeds, s²/S for S of them, is added to that between classes, with degrees of freedom by
    Welch and Satterthwaite. What seeds and classes do together is in both, so the interval is a little wide.
    """
    scores = mean_of(several)
    values = scores.accuracies
    mean = float(values.mean())
    spread = over_classes(scores) if scores.images is None else over_images(scores)
    if len(several) > 1:
        means = [float(s.accuracies.mean()) for s in several]
        spread = added(spread, Spread(float(np.var(means, ddof=1)) / len(several), len(several) - 1))
    low, high = _on_logit_scale(mean, spread.half_width, images=scores.answers.sum())
    present = np.unique(scores.classes)
    interval = ClassInterval(
        low=low,
        high=high,
        classes=len(present),
        families=len(np.unique(scores.families[present])),
        seeds=len(several),
        are_all=scores.images is not None,
    )
    half_width = min(1.0, over_episodes(values).half_width)
    return Accuracy(mean=mean, half_width=half_width, episodes=len(values), seed=seed, over_classes=interval)


def difference(one: Scores, other: Scores) -> tuple[float, float]:
    """By how much one model is ahead of another on the same episodes, and the half width over classes and episodes."""
    assert one.has_same_episodes(other)
    values = one.accuracies - other.accuracies
    spread = over_classes(one, other) if one.images is None else added(over_images(one), over_images(other))
    return float(values.mean()), min(1.0, spread.half_width)


def over_episodes(values: np.ndarray) -> Spread:
    """Of the mean of these episodes [E], were others drawn of the same classes."""
    count = len(values)
    return Spread(float(values.var(ddof=1)) / count, count - 1) if count > 1 else Spread(0.0, 0)


def over_classes(scores: Scores, minus: Scores | None = None) -> Spread:
    """Of the mean accuracy, were other classes drawn as well; or of its difference from that of another model."""
    values = scores.accuracies - (minus.accuracies if minus else 0.0)
    answers = scores.answers - (minus.answers if minus else 0.0)
    images = scores.answers.sum((1, 2))
    groups, count = _groups(scores)
    shifts = _without_episodes(values, groups, count)
    if shifts is None:
        shifts = _without_pairs(answers, images, groups, count)
    if shifts is None:
        return Spread(0.0, 0)
    variance = (count - 1) / count * float((shifts**2).sum())
    return Spread(max(variance, over_episodes(values).variance), count - 1)


def over_images(scores: Scores) -> Spread:
    """Of the mean accuracy, were other images drawn of these very classes."""
    assert scores.images is not None
    present = np.unique(scores.classes)
    own = np.zeros((2, len(scores.images)))
    for row, counts in enumerate((scores.answers.diagonal(axis1=1, axis2=2), scores.answers.sum(2))):
        np.add.at(own[row], scores.classes, counts)
    right, asked = own[:, present]
    of = scores.images[present]
    distinct = np.maximum(1.0, of * -np.expm1(-asked / of))  # of so many that were drawn again and again
    part = (right + 0.5) / (asked + 1)
    variance = float((part * (1 - part) / distinct).sum()) / len(present) ** 2
    return Spread(
        max(variance, over_episodes(scores.accuracies).variance), max(1.0, float(distinct.sum()) - len(present))
    )


def added(one: Spread, other: Spread) -> Spread:
    """Of the sum of two independent parts."""
    variance = one.variance + other.variance
    if min(one.degrees, other.degrees) <= 0 or variance == 0:
        return Spread(variance, min(one.degrees, other.degrees))
    parts = one.variance**2 / one.degrees + other.variance**2 / other.degrees
    return Spread(variance, variance**2 / parts)


@functools.cache
def student_t(degrees: float) -> float:
    """The 97.5 % quantile."""
    from scipy.special import stdtrit  # what scipy.stats would ask, after a second of imports

    return float(stdtrit(degrees, 0.975))


def _groups(scores: Scores) -> tuple[np.ndarray, int]:
    """What is left out together, [E, N] in 0 … G−1: families where there are more of them than ways, else classes.

    Two families of four turns, as in digits, would leave one degree of freedom and an interval from 0 to 1.
    """
    present, index = np.unique(scores.classes, return_inverse=True)
    families, of_class = np.unique(scores.families[present], return_inverse=True)
    index = index.reshape(scores.classes.shape)
    way = scores.classes.shape[1]
    return (of_class[index], len(families)) if len(families) > way else (index, len(present))


def _without_episodes(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray | None:
    """[G] by how much the mean moves without the episodes of each group; None where one is in all episodes."""
    has = np.zeros((len(values), count), bool)
    has[np.arange(len(values))[:, None], groups] = True
    left = (~has).sum(0)
    return (values @ ~has) / left - values.mean() if left.min() > 0 else None


def _without_pairs(answers: np.ndarray, images: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray | None:
    """[G] by how much the mean moves without the pairs of classes of each group; None where no pair is left."""
    way = answers.shape[1]
    pairs = (groups[:, :, None] * count + groups[:, None, :]).ravel()  # (E·N·N)
    is_other = np.broadcast_to(1 - np.eye(way), answers.shape)
    wrong = np.bincount(pairs, (answers * is_other).ravel(), count * count).reshape(count, count)
    shown = (images / way)[:, None, None] * is_other  # images of one class that might be taken for another
    asked = np.bincount(pairs, shown.ravel(), count * count).reshape(count, count)
    left = _without_each(asked)
    if left.min() <= 0:
        return None
    return -(way - 1) * (_without_each(wrong) / left - wrong.sum() / asked.sum())


def _without_each(table: np.ndarray) -> np.ndarray:
    """Sum of a table [G, G] without row and column g, for each g."""
    return table.sum() - table.sum(0) - table.sum(1) + table.diagonal()


def _on_logit_scale(mean: float, half_width: float, *, images: float) -> tuple[float, float]:
    """Bounds in [0, 1] that are as far from the mean on the logit scale; half an image stands in for none."""
    if not math.isfinite(half_width):
        return 0.0, 1.0
    inside = min(max(mean, 0.5 / images), 1 - 0.5 / images)
    centre, step = math.log(inside / (1 - inside)), half_width / (inside * (1 - inside))
    return min(mean, _expit(centre - step)), max(mean, _expit(centre + step))


def _expit(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))
