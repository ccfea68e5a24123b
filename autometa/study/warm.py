"""Where a search starts: with what past studies say, if any of them says something about this one.

It decides which archives count, asks `priors` for a sampler and a portfolio, and puts it all into a line for
people. It does not run trials.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import optuna
from optuna.samplers import BaseSampler

from autometa import trial_attributes as attributes
from autometa.aliases import FIRST
from autometa.archives import read
from autometa.data import catalog
from autometa.errors import StudyError
from autometa.hpo.ledger import ended
from autometa.hpo.pruning import make_sampler
from autometa.past import PastStudy
from autometa.records import Scalar, StudyRecord
from autometa.sampling.sampler import PriorSampler
from autometa.space.space import SearchSpace
from autometa.tasks.similarity import coordinates, distances, log_weights
from autometa.trial.abilities import external_backbones, marks

# The first batch: no more than a third of all trials, since a space's own starts have their say too.
_PORTFOLIO, _PART = 4, 3
_MOST_SHOWN = 3
# Configurations that differ in nothing but numbers, and in these by no more than this part of their range, are one to
# the first proposals. It is the finest step with which the prior moves a number when it looks for a better one: a rate
# that may vary over three decades differs by 15 %.
_NEAR = 0.02
# Another data set is of the same images, as far as names tell, from this part of the classes that are held out on.
_SAME_CLASSES = 0.2
# The first starts of a space, which an open search believes in. They are cheap; what did best where there was more time
# need not be. With a pick in the place of one, two minutes gave 77.9 instead of 79.0 (docs/log.md).
BELIEVED = 2
# What a past study without external candidates is believed less where others have some, in logarithms: as the furthest.
_OTHER_KIND = -2.0
_THEN = " then "  # between the digests of an archive that changed while a study was continued


@dataclass(frozen=True)
class Start:
    """How a search starts.

    Args:
        sampler: for all trials that are not enqueued.
        portfolio: configurations to try first, each with its reason.
        line: what the prior did, in a line for people; empty without one.
    """

    sampler: BaseSampler
    portfolio: Sequence[tuple[Mapping[str, Scalar], str]] = ()
    line: str = ""

    def first(self, space: SearchSpace, believed: int = BELIEVED) -> list[tuple[Mapping[str, Scalar], str]]:
        """All that is enqueued: the starts that the space believes in most, then picks and its other starts in turn.

        Each configuration once. Picks that nearly are a start have its place: how dear they are is not known.

        Args:
            believed: how many starts come before all picks.
        """
        starts = [(values, f"start {number} of {space.name}") for number, values in enumerate(space.start, 1)]
        picks = [one for one in self.portfolio if all(space.distance(one[0], own) > _NEAR for own in space.start)]
        others = chain.from_iterable(zip_longest(picks, starts[believed:]))
        found: list[tuple[Mapping[str, Scalar], str]] = []
        for one in [*starts[:believed], *others]:
            if one and all(space.key(one[0]) != space.key(known) for known, _ in found):
                found.append(one)
        return found


@dataclass(frozen=True)
class Past:
    """What a search learns from: `studies`, and the names of those left out since they are of the same data."""

    studies: Sequence[PastStudy] = ()
    same_data: Sequence[str] = ()


def comparable(
    name: str,
    fingerprint: str,
    folder: str | Path | None,
    warn: Callable[[str], None],
    *,
    dataset: str = "",
    held_out: Collection[str] = (),
) -> Past:
    """Archived studies not of this name, which would be itself: of `folder` (one archive, or many), or all.

    Of all, those of the same data are left out: a second search of it that began with the first one's winner would be
    no replicate, and what was chosen by classes that are new here would not be measured on new ones. Data is the same
    by its content, by the files that it is made of, or where many of the classes that are held out here have the same
    names there. In `folder` all count, since somebody chose it.

    Args:
        fingerprint: of the data set's content.
        dataset: its name.
        held_out: names of its validation and test classes.

    Raises:
        StudyError: `folder` has no archive; or, where it is one archive, that is broken.
    """
    if folder is None:
        past = read.past_studies(on_broken=warn)
    elif (Path(folder) / "study.toml").is_file():
        past = [read.past_study(Path(folder))]
    else:
        past = read.past_studies(folder, on_broken=warn) if Path(folder).is_dir() else []
        if not past:
            raise StudyError(f"--prior {folder}: no archived study is there; see `autometa studies`")
    others = [study for study in past if study.name.split("~")[0] != name]
    if folder is not None:
        return Past(others)

    def is_same(study: PastStudy) -> bool:
        known = study.classes.intersection(held_out)
        is_of_these = study.fingerprint == fingerprint or catalog.share_images(study.dataset, dataset)
        return is_of_these or (bool(known) and len(known) >= _SAME_CLASSES * len(held_out))

    same = [study.name for study in others if is_same(study)]
    return Past([study for study in others if study.name not in same], same)


def noted(record: StudyRecord, past: Past, *, is_new: bool, warn: Callable[[str], None]) -> StudyRecord:
    """The record with the past it learns from now; says what has changed where the study learned from another.

    What it learned from before stays in it, since trials came of that. Renamed parameters are no change: digests are
    of first names.
    """
    now = {study.name: study.renamed(FIRST).digest for study in past.studies}
    if is_new:
        return record.model_copy(update={"past": now})
    if record.past is None:  # made before this was noted
        return record
    before = {name: digests.split(_THEN) for name, digests in record.past.items()}
    changes = {
        "new": [name for name in now if name not in before],
        "changed": [name for name in now if name in before and now[name] != before[name][-1]],
        "gone": [name for name in before if name not in now],
    }
    if any(changes.values()):
        text = "; ".join(f"{what}: {_shown(names)}" for what, names in changes.items() if names)
        warn(f"study {record.name!r} learned from other past studies before, so its proposals are others now ({text})")
    merged = dict(record.past) | {name: now[name] for name in changes["new"]}
    merged |= {name: f"{record.past[name]}{_THEN}{now[name]}" for name in changes["changed"]}
    return record.model_copy(update={"past": merged})


def permitted(past: Past, *, transductive: bool, external: bool) -> Past:
    """The past without trials that this search would refuse: they were good for what it may not do.

    Their values would be read as those of the nearest configuration of the space. A study whose best trial is refused
    is left out: its others were stopped early beside that one, and say little of what would win without it.
    """
    refused = {mark for mark, allowed in (("transductive", transductive), ("external", external)) if not allowed}
    found = []
    for study in past.studies:
        kept = tuple(trial for trial in study.trials if not refused & set(marks(trial.values)))
        best = next(iter(study.ranked()), None)
        if kept and (best is None or best in kept):
            found.append(study if len(kept) == len(study.trials) else dataclasses.replace(study, trials=kept))
    return dataclasses.replace(past, studies=found)


def start(
    record: StudyRecord,
    space: SearchSpace,
    past: Past,
    *,
    trials: int,
    trials_so_far: int,
) -> Start:
    """A warm start from these studies, or the cold sampler where none of them says anything about the space."""
    cold = make_sampler(record.seed, trials_so_far)
    studies, left_out = past.studies, _left_out(past.same_data)
    if not studies:
        return Start(cold, line=left_out and f"prior: {left_out}")
    left_out = left_out and f"; {left_out}"
    external = {study.name for study in studies if any("external" in marks(trial.values) for trial in study.trials)}
    if external_backbones(space) and not external:  # they would take the turns of what may lead here
        none = f"prior: none of {_count(studies)} had weights from elsewhere; cold start"
        return Start(cold, line=none + left_out)
    far = distances(coordinates(record.features, record.episodes), studies)
    weights = _by_kind(log_weights(far), external)
    sampler = PriorSampler(studies, seed=record.seed, space=space, log_weights=weights, cold=cold)
    proposer = sampler.prepare()
    if proposer is None:
        none = f"prior: none of {_count(studies)} tells good from bad in this space; cold start"
        return Start(cold, line=none + left_out)
    names = sorted(sampler.weights, key=lambda name: -sampler.weights[name])
    shown = _shown([f"{name} {sampler.weights[name]:.2f}" for name in names])
    size = min(_PORTFOLIO, trials // _PART)
    picks = _thinned(space, [(pick.values, pick.why) for pick in proposer.portfolio(2 * size)])[:size]
    line = f"prior: {_count(studies)}, {len(names)} informative: {shown}; portfolio of {len(picks)}"
    return Start(sampler, picks, line + left_out)


def _by_kind(weights: Mapping[str, float], external: Collection[str]) -> dict[str, float]:
    """Log-weights, less of studies without weights from elsewhere where others, `external`, have them.

    `permitted` leaves external trials to a search that may have such: what is best without them is no pick for it.
    """
    return {
        name: weight + (_OTHER_KIND if external and name not in external else 0.0) for name, weight in weights.items()
    }


@dataclass(frozen=True)
class Worth:
    """What one source of configurations gave: trials that ended, and the best accuracy of one in full, if any."""

    trials: int
    best: float | None


def worth(study: optuna.Study) -> dict[str, Worth]:
    """By origin: portfolio, prior, cold, or the space's own start."""
    values: dict[str, list[float | None]] = {}
    for trial in ended(study):
        origin = str(attributes.ORIGIN.of(trial, "cold")).split(" ")[0].rstrip(":")
        values.setdefault(origin, []).append(trial.value)
    return {
        origin: Worth(len(found), max((value for value in found if value is not None), default=None))
        for origin, found in values.items()
    }


def _thinned(
    space: SearchSpace, picks: Sequence[tuple[Mapping[str, Scalar], str]]
) -> list[tuple[Mapping[str, Scalar], str]]:
    """Without those that nearly are an earlier one."""
    kept: list[tuple[Mapping[str, Scalar], str]] = []
    for values, why in picks:
        if all(space.distance(values, other) > _NEAR for other, _ in kept):
            kept.append((values, why))
    return kept


def _left_out(names: Sequence[str]) -> str:
    """Which archives were left out since they are of the same data, and how to learn from them; empty for none."""
    if not names:
        return ""
    counted = f"{len(names)} of the same data {'is' if len(names) == 1 else 'are'} left out ({_shown(names)})"
    return f"{counted}: --prior PATH learns from {'it' if len(names) == 1 else 'them'}"


def _shown(names: Sequence[str]) -> str:
    """The first few."""
    return ", ".join(names[:_MOST_SHOWN]) + (", …" if len(names) > _MOST_SHOWN else "")


def _count(past: Sequence[PastStudy]) -> str:
    return f"{len(past)} past {'study' if len(past) == 1 else 'studies'}"
