"""How near the tasks of past studies are to a task, by the features of their data sets, way and shot.

It does not know what the studies found: a near task may still want another learner, so what a distance says
is weak (`log_weights`), and agreement with results decides.

Symbols: a_f and b_f a feature of two tasks, s_f its scale, z_f how notable the difference is, d the distance.

    z_f = min(|a_f - b_f| / s_f, 3)        d² = mean over groups of the mean over the group's f of z_f²

Groups, since many features say nearly the same; the limit, since one outlying feature must not hide the rest.
What one of both has no number for is left out of the means. d is a metric where all numbers are there; 1 is one
notable difference in everything, and 3 is the greatest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from autometa.past import PastStudy
from autometa.records import EpisodeSpec
from autometa.tasks.features import Features

_MOST = 3.0
# The archive's own deviation counts as much as the fixed scale once it has this many data sets; that of three is
# off by half.
_FIXED_COUNTS_AS = 20
_LEAST_LOG_WEIGHT = -2.0
_TASK = "task"


@dataclass(frozen=True)
class Scale:
    """One feature: what it says, and which difference in it is notable."""

    group: str
    notable: float
    label: str
    more: str
    less: str
    is_log: bool = False

    def shown(self, value: float) -> str:
        """The value for people: counts are counts again."""
        return f"{math.exp(min(value, 700)):,.0f}" if self.is_log else f"{value:.3g}"


_FOURFOLD, _TWICE, _ONE_TO_FIVE = math.log(4), math.log(2), math.log(5)

# Sizes, way and shot by reason: four times as many, twice as large, grey or colour, one shot or five. The others are
# the standard deviation among digits, Omniglot and CIFAR-FS in `benchmarks/results/feature-scales.md`, of which three
# kinds give one digit at best; what measures the same thing shares a scale. Random halves of one data set's classes
# differ by less than a third of any scale, for which edge_direction was raised.
SCALES: dict[str, Scale] = {
    "log_images": Scale("size", _FOURFOLD, "images", "more images", "fewer images", is_log=True),
    "channels": Scale("size", 2.0, "channels", "colour", "no colour"),
    "log_resolution": Scale("size", _TWICE, "pixels a side", "larger images", "smaller images", is_log=True),
    "log_classes": Scale("size", _FOURFOLD, "train classes", "more classes", "fewer classes", is_log=True),
    "log_images_per_class": Scale(
        "size", _FOURFOLD, "images a class", "more images a class", "fewer images a class", is_log=True
    ),
    "intensity_mean": Scale("look", 0.2, "brightness", "brighter", "darker"),
    "intensity_deviation": Scale("look", 0.07, "contrast", "more contrast", "less contrast"),
    "intensity_skew": Scale("look", 1.4, "skew of intensity", "more bright on dark", "less bright on dark"),
    "intensity_kurtosis": Scale("look", 4.7, "kurtosis of intensity", "sparser strokes", "denser images"),
    "intensity_between_images": Scale(
        "look", 0.26, "brightness between images", "brightness varies more", "brightness varies less"
    ),
    "colour": Scale("look", 0.14, "colourfulness", "more colourful", "less colourful"),
    "edge_mean": Scale("look", 0.22, "steepness of edges", "steeper edges", "softer edges"),
    "edge_deviation": Scale("look", 0.27, "variation of edges", "edges vary more", "edges vary less"),
    "edge_direction": Scale("look", 0.12, "share of edges downwards", "edges more downwards", "edges more sideways"),
    "pca_first": Scale("structure", 0.2, "variance in one direction", "more variance in one direction", "less so"),
    "pca_ten": Scale("structure", 0.2, "variance in ten directions", "simpler images", "more varied images"),
    "log_dimension": Scale("structure", 1.1, "dimensions", "more dimensions", "fewer dimensions", is_log=True),
    "between_classes": Scale(
        "separation", 0.25, "variance between classes", "classes lie further apart", "classes overlap more"
    ),
    "pixel_1_shot": Scale(
        "separation", 0.25, "pixels, 1-shot", "pixels tell more (1-shot)", "pixels tell less (1-shot)"
    ),
    "pixel_5_shot": Scale(
        "separation", 0.25, "pixels, 5-shot", "pixels tell more (5-shot)", "pixels tell less (5-shot)"
    ),
    "random_conv_1_shot": Scale(
        "separation", 0.25, "untrained network, 1-shot", "easier untrained (1-shot)", "harder untrained (1-shot)"
    ),
    "random_conv_5_shot": Scale(
        "separation", 0.25, "untrained network, 5-shot", "easier untrained (5-shot)", "harder untrained (5-shot)"
    ),
    "log_way": Scale(_TASK, _TWICE, "ways", "more ways", "fewer ways", is_log=True),
    "log_shot": Scale(_TASK, _ONE_TO_FIVE, "shots", "more shots", "fewer shots", is_log=True),
}


@dataclass(frozen=True)
class Difference:
    """One feature in which a past study differs from a task; `notable` is z_f."""

    name: str
    here: float
    there: float
    notable: float

    def __str__(self) -> str:
        """What is there, such as `more classes (4,112, not 64)`."""
        scale = SCALES[self.name]
        words = scale.more if self.there > self.here else scale.less
        return f"{words} ({scale.shown(self.there)}, not {scale.shown(self.here)})"


def coordinates(features: Features, episodes: EpisodeSpec | None = None) -> dict[str, float]:
    """Where a task lies: its data set's features that are known and have a scale, and its way and shot."""
    known = {name: features[name] for name in SCALES if name in features and math.isfinite(features[name])}
    if episodes is None:
        return known
    return known | {"log_way": math.log(episodes.way), "log_shot": math.log(episodes.shot)}


def coordinates_of(study: PastStudy) -> dict[str, float]:
    """Where a past study's task lies."""
    return coordinates(study.features, study.episodes)


def distances(target: Features, studies: Sequence[PastStudy]) -> dict[str, float]:
    """How far each study is from a task, by the study's name; NaN where nothing of its data set is known.

    Args:
        target: from `coordinates`, or features alone.
        studies: with names of their own.
    """
    places = [coordinates_of(study) for study in studies]
    fitted = scales([target, *places])
    return {study.name: distance(target, place, fitted) for study, place in zip(studies, places, strict=True)}


def differences(target: Features, other: Features, fitted: Mapping[str, float]) -> list[Difference]:
    """All features that both have, the most notable difference first."""
    pairs = [(name, target[name], other[name]) for name in fitted if name in target and name in other]
    known = [pair for pair in pairs if all(map(math.isfinite, pair[1:]))]
    found = [Difference(name, a, b, min(abs(a - b) / fitted[name], _MOST)) for name, a, b in known]
    return sorted(found, key=lambda difference: -difference.notable)


def distance(a: Features, b: Features, fitted: Mapping[str, float]) -> float:
    """d, in [0, 3]; NaN without any feature of the data set that both have. Zero for equal tasks, and symmetric."""
    groups: dict[str, list[float]] = {}
    for difference in differences(a, b, fitted):
        groups.setdefault(SCALES[difference.name].group, []).append(difference.notable**2)
    if not groups.keys() - {_TASK}:
        return math.nan
    return math.sqrt(_mean(_mean(squares) for squares in groups.values()))


def scales(places: Sequence[Features]) -> dict[str, float]:
    """s_f: the fixed scale, drawn towards the standard deviation among these places' data sets as they grow in number.

    s² = (20 · fixed² + M · deviation²) / (20 + M) with M data sets; of way and shot the fixed one.
    """
    return {name: _shrunk(scale, name, _data_sets(places)) for name, scale in SCALES.items()}


def log_weights(distances: Mapping[str, float]) -> dict[str, float]:
    """A weak prior log-weight for each study: -d² / 2 but at least -2, and 0 where d is not known.

    Digits, Omniglot and CIFAR-FS lie 1.2 to 1.4 apart, so each counts 0.4 to 0.5 of a like one for another; a study
    at the limit still counts an eighth, so results outvote it within a few comparisons.
    """
    return {name: 0.0 if math.isnan(far) else _log_weight(far) for name, far in distances.items()}


def _log_weight(far: float) -> float:
    return max(0.0 - far**2 / 2, _LEAST_LOG_WEIGHT)


def _data_sets(places: Iterable[Features]) -> list[Features]:
    """Each data set once, however many studies were made of it."""
    found = ({name: value for name, value in place.items() if _is_of_data(name)} for place in places)
    # Rounded, since the same images give other last digits on another machine.
    once = {tuple(sorted((name, round(value, 3)) for name, value in f.items())): f for f in found if f}
    return list(once.values())


def _is_of_data(name: str) -> bool:
    return name in SCALES and SCALES[name].group != _TASK


def _shrunk(scale: Scale, name: str, data_sets: Sequence[Features]) -> float:
    values = [features[name] for features in data_sets if math.isfinite(features.get(name, math.nan))]
    if len(values) < 2:
        return scale.notable
    with np.errstate(over="ignore"):
        own = min(float(np.std(values, ddof=1)), _MOST * scale.notable)  # a wrong number may be in an archive
    squares = _FIXED_COUNTS_AS * scale.notable**2 + len(values) * own**2
    return math.sqrt(squares / (_FIXED_COUNTS_AS + len(values)))


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
