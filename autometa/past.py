"""Past studies in the one form that samplers, pruners and task similarity learn from, wherever they were kept.

It does not know storages, tables or the archive's files; what reads those makes a `PastStudy`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from autometa import aliases
from autometa.records import EpisodeSpec, Scalar, TrialState

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class PastReport:
    """What a past trial showed at one rung.

    Args:
        rung: how far the trial was, counted from 1; comparable within a study only.
        value: in the study's own units.
        seconds: of training so far; NaN where nobody noted them.
        half_width: of the value's 95 % interval; NaN where nobody noted it.
    """

    rung: int
    value: float
    seconds: float = math.nan
    half_width: float = math.nan


@dataclass(frozen=True)
class PastTrial:
    """One ended trial: its active parameters, and what it showed rung by rung (nothing, if it failed at once).

    Its number is the study's own, for people.
    """

    values: Mapping[str, Scalar]
    curve: tuple[PastReport, ...] = ()
    state: TrialState = "complete"
    number: int = 0

    @cached_property
    def by_rung(self) -> dict[int, PastReport]:
        """The reports by their rung."""
        return {report.rung: report for report in self.curve}


@dataclass(frozen=True)
class PastStudy:
    """One past study.

    Args:
        name: unique among those a prior is made of.
        trials: in the order they were proposed.
        direction: whether greater values are better.
        ranges: how parameters could vary, in Optuna's JSON form, as far as that is known.
        features: of its data set, as in `tasks.features`; empty where it has none.
        dataset: its data set, for people.
        origin: where it was read, for people.
        episodes: its few-shot task; None where it had none or nobody noted it.
        fingerprint: of its data set's content; empty where nobody noted it.
        classes: names of its data set's, all splits; empty where nobody noted them.
    """

    name: str
    trials: tuple[PastTrial, ...]
    direction: Direction = "maximize"
    ranges: Mapping[str, str] = field(default_factory=dict)
    features: Mapping[str, float] = field(default_factory=dict)
    dataset: str = ""
    origin: str = ""
    episodes: EpisodeSpec | None = None
    fingerprint: str = ""
    classes: frozenset[str] = frozenset()

    @cached_property
    def digest(self) -> str:
        """Of all that a prior may learn from it, whatever it is called and wherever it is kept."""
        known = (self.direction, sorted(self.ranges.items()), sorted(self.features.items()), str(self.episodes))
        found = hashlib.sha256(repr(known).encode())
        for trial in self.trials:
            found.update(f"{trial.values!r} {trial.state} {trial.curve!r}".encode())
        return found.hexdigest()[:16]

    @cached_property
    def parameters(self) -> tuple[str, ...]:
        """All that its trials had, in the order they first had them."""
        return tuple(dict.fromkeys(name for trial in self.trials for name in trial.values))

    def renamed(self, names: Mapping[str, str]) -> PastStudy:
        """The same study with other names of parameters."""
        trials = tuple(dataclasses.replace(t, values=aliases.renamed(t.values, names)) for t in self.trials)
        return dataclasses.replace(self, trials=trials, ranges=aliases.renamed(self.ranges, names))

    @cached_property
    def rungs(self) -> int:
        """The last rung of a full trial: the highest that any reached."""
        return max((report.rung for trial in self.trials for report in trial.curve), default=0)

    @property
    def sign(self) -> float:
        """What makes greater better: 1 or -1."""
        return 1.0 if self.direction == "maximize" else -1.0

    def ranked(self) -> list[PastTrial]:
        """Trials that have a value and did not fail: those that came furthest first, and by value among them."""
        shown = [trial for trial in self.trials if trial.curve and trial.state != "fail"]
        return sorted(shown, key=lambda t: (t.curve[-1].rung, self.sign * t.curve[-1].value), reverse=True)

    def best(self) -> PastTrial | None:
        """The best of the trials that reached the last rung."""
        full = [trial for trial in self.trials if self.rungs in trial.by_rung]
        return max(full, key=lambda trial: self.sign * trial.by_rung[self.rungs].value, default=None)


def checked(past: Iterable[PastStudy], who: str) -> tuple[PastStudy, ...]:
    """These past studies; raises `TypeError` where one is something else, such as a study of Optuna.

    Args:
        who: was given them.
    """
    if isinstance(past, str):
        raise TypeError(f"{who} learns from past studies, and {past!r} is a text: autometa.past_studies({past!r})")
    found = tuple(past)
    for study in found:
        if not isinstance(study, PastStudy):
            hint = "autometa.from_optuna makes one of a study of Optuna"
            raise TypeError(f"{who} learns from past studies, not from a {type(study).__name__}; {hint}")
    return found
