"""Which family, backbone, head and augmentation wins where, as the shipped archives show: writes `docs/what-works.md`.

    python benchmarks/what_works.py

A candidate's accuracy is what it would have had at the highest rung of its study (`archived.py`). A family is as good
as its best candidate. A choice is compared among candidates of one family in one study, whose mean is taken from
each, and then averaged over studies. Intervals are 95 % ones of the mean over studies (Student's t), so they cover
other data sets like these and no others. Studies of one source of images are not independent; their number is given.
"""

from __future__ import annotations

import math
import statistics
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from archived import SOURCES, at_the_end, names, with_result
from build_archive import STUDIES
from scipy.stats import t as student

from autometa.archives import archive
from autometa.records import Scalar

FILE = Path(__file__).resolve().parents[1] / "docs" / "what-works.md"
FEWEST_STUDIES, FEWEST_CANDIDATES = 3, 2
# What is compared among candidates of one family. Numbers of little consequence have no place in a table for people.
CHOICES = {
    "backbone": "Backbone",
    "conv.width": "Width of Conv4",
    "norm": "Norm",
    "augment": "Augmentation",
    "optimizer": "Optimiser",
    "train_way": "Classes of a training episode",
    "episodes_per_step": "Episodes of a step",
    "label_smoothing": "Label smoothing",
    "pretrain.head": "Head after pre-training",
    "frozen.head": "Head on frozen features",
    "lite.model": "EfficientNet-Lite",
    "lite.image_size": "Its resolution",
    "lite.layer": "Its layer",
}


@dataclass(frozen=True)
class Found:
    """One study: its candidates' configurations, and accuracies in per cent."""

    name: str
    source: str
    is_external: bool
    values: Sequence[Mapping[str, Scalar]]
    accuracies: Sequence[float]


class Mean(NamedTuple):
    """Over studies, with half of its 95 % interval."""

    mean: float
    half_width: float
    studies: int
    sources: int

    def __str__(self) -> str:
        return f"{self.mean:+.1f} ± {self.half_width:.1f} ({self.studies} of {self.sources})"


ABOUT = """Written by `python benchmarks/what_works.py` from {studies} past studies that come along, {candidates}
candidates in all. Each has twelve minutes on two cores, and a candidate 50 seconds on one, so this says what
is good in minutes. Differences are in points of validation accuracy. ± is the 95 % interval of the mean over studies.
In brackets: how many studies, of how many sources of images. What fewer than three show is left out."""
WIDTH = 120
CHARACTERS = ("digits", "omniglot")
GROUPS: dict[str, Callable[[Found], bool]] = {
    "characters": lambda study: not study.is_external and study.source in CHARACTERS,
    "photographs": lambda study: not study.is_external and study.source not in CHARACTERS,
    "with weights from elsewhere": lambda study: study.is_external,
}


def main() -> None:
    studies = [read(name) for name in names()]
    FILE.write_text("\n".join(page(studies)) + "\n")
    print(f"wrote {FILE.name}: {len(studies)} studies")


def read(name: str) -> Found:
    past = archive.read(STUDIES / name)
    trials = with_result(past.trials)
    return Found(
        name,
        SOURCES[name],
        past.study.space == "pretrained",
        [trial.config.values for trial in trials],
        at_the_end(trials),
    )


def page(studies: Sequence[Found]) -> Iterator[str]:
    candidates = sum(len(study.values) for study in studies)
    yield "# What works where"
    yield ""
    yield textwrap.fill(ABOUT.format(studies=len(studies), candidates=candidates), WIDTH)
    yield ""
    yield from families(studies)
    yield from choices(studies)


def families(studies: Sequence[Found]) -> Iterator[str]:
    yield "## Families"
    yield ""
    yield "How far a family's best candidate is behind the best of all, and how often it was the best."
    yield ""
    for group, belongs in GROUPS.items():
        chosen = [study for study in studies if belongs(study)]
        rows = sorted(behind(chosen), key=lambda row: -row[1].mean)
        if rows:
            yield f"**{group[0].upper()}{group[1:]}**, {len(chosen)} studies:"
            yield ""
            cells = [(f"`{family}`", mean, wins) for family, mean, wins in rows]
            yield from table(("family", "behind the best", "best of all in"), cells)


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    yield from (f"| {' | '.join(map(str, row))} |" for row in rows)
    yield ""


def behind(studies: Sequence[Found]) -> Iterator[tuple[str, Mean, int]]:
    best_of: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for study in studies:
        top = max(study.accuracies)
        for own in in_families(study):
            best_of[str(own[0][0]["learner"])].append((study.source, max(accuracy for _, accuracy in own) - top))
    for family, found in best_of.items():
        if mean := mean_of(found):
            yield family, mean, sum(gap == 0 for _, gap in found)


def choices(studies: Sequence[Found]) -> Iterator[str]:
    yield "## Choices"
    yield ""
    yield "What a choice has over the mean of its family's candidates in the same study."
    yield ""
    for parameter, title in CHOICES.items():
        tables = {group: effects([s for s in studies if belongs(s)], parameter) for group, belongs in GROUPS.items()}
        kept = {group: found for group, found in tables.items() if len(found) > 1}
        if not kept:
            continue
        levels = sorted({level for found in kept.values() for level in found}, key=lambda level: (len(level), level))
        yield f"**{title}** (`{parameter}`):"
        yield ""
        cells = [(level, *(found.get(level, "") for found in kept.values())) for level in levels]
        yield from table(("", *kept), cells)


def effects(studies: Sequence[Found], parameter: str) -> dict[str, Mean]:
    found: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for study in studies:
        by_level: dict[str, list[float]] = defaultdict(list)
        for own in in_families(study):
            known = [(str(values[parameter]), accuracy) for values, accuracy in own if parameter in values]
            if len({level for level, _ in known}) > 1:
                middle = statistics.mean(accuracy for _, accuracy in known)
                for level, accuracy in known:
                    by_level[level].append(accuracy - middle)
        for level, differences in by_level.items():
            if len(differences) >= FEWEST_CANDIDATES:
                found[level].append((study.source, statistics.mean(differences)))
    means = {level: mean_of(each) for level, each in found.items()}
    return {level: mean for level, mean in means.items() if mean}


def in_families(study: Found) -> Iterator[list[tuple[Mapping[str, Scalar], float]]]:
    families: dict[str, list[tuple[Mapping[str, Scalar], float]]] = defaultdict(list)
    for values, accuracy in zip(study.values, study.accuracies, strict=True):
        families[str(values["learner"])].append((values, accuracy))
    yield from families.values()


def mean_of(found: Sequence[tuple[str, float]]) -> Mean | None:
    if len(found) < FEWEST_STUDIES:
        return None
    values = [value for _, value in found]
    half = float(student.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return Mean(statistics.mean(values), half, len(values), len({source for source, _ in found}))


if __name__ == "__main__":
    main()
