"""Archives of either format as past studies to learn from.

It does not know how archives are written, nor what a prior makes of them.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from autometa.archives import archive, folders, foreign
from autometa.archives.archive import ArchivedStudy
from autometa.errors import AutometaError, StudyError
from autometa.past import PastReport, PastStudy, PastTrial
from autometa.records import StudyRecord, TrialRecord


def read(folder: Path) -> ArchivedStudy | PastStudy:
    """An archive as its own format has it: a study of autometa with its record, or another's."""
    found, head = folders.read_head(folder)
    if found == archive.FORMAT:
        return archive.with_head(folder, head)
    if found == foreign.FORMAT:
        return foreign.with_head(folder, head)
    raise StudyError(
        f"{folder / folders.HEAD}: format is {found!r}; it may be {archive.FORMAT!r} or {foreign.FORMAT!r}"
    )


def past_study(folder: Path) -> PastStudy:
    """Read one archive; raises `StudyError` or `ConfigError` naming the file and what is wrong."""
    kept = read(folder)
    return kept if isinstance(kept, PastStudy) else as_past(kept.study, kept.trials, origin=str(folder))


def past_studies(*roots: str | Path, on_broken: Callable[[str], None] | None = None) -> list[PastStudy]:
    """Read all archives under these roots, by default your own and the shipped ones (`archive.list_archives`).

    A root may be the folder of one archive. A broken archive is left out, and its reason goes to `on_broken`, or
    becomes a warning without it. Where two under given roots have the same name, the second is called `name~2`.

    Raises:
        StudyError: a root is no folder.
    """
    found: list[PastStudy] = []
    for folder in _archives(*map(Path, roots)):
        try:
            found.append(past_study(folder))
        except AutometaError as error:
            _report(f"left out a past study: {error}", on_broken)
    return _told_apart(found)


def all_past_studies(*roots: Path) -> list[PastStudy]:
    """The same; raises at the first that is broken."""
    return _told_apart(past_study(folder) for folder in archive.list_archives(*roots))


def _archives(*roots: Path) -> Iterator[Path]:
    """Those that are given themselves, then those below the other roots, or all without any root."""
    for root in roots:
        if not root.is_dir():
            raise StudyError(f"{root}: no such folder, so there are no past studies in it")
    single = [root for root in roots if (root / folders.HEAD).is_file()]
    yield from dict.fromkeys(root.resolve() for root in single)
    below = [root for root in roots if root not in single]
    if below or not roots:
        yield from archive.list_archives(*below)


def as_past(study: StudyRecord, trials: Sequence[TrialRecord], *, origin: str = "") -> PastStudy:
    """A study of autometa in the common form: values are query-set accuracies in [0, 1]."""
    classes = study.dataset_identity.classes.values() if study.dataset_identity else ()
    return PastStudy(
        name=study.name,
        trials=tuple(_past_trial(trial) for trial in trials),
        features=study.features,
        dataset=Path(study.dataset).name,
        origin=origin,
        episodes=study.episodes,
        fingerprint=study.dataset_fingerprint,
        classes=frozenset(chain.from_iterable(classes)),
    )


def _told_apart(studies: Iterable[PastStudy]) -> list[PastStudy]:
    found: list[PastStudy] = []
    times: dict[str, int] = {}
    for past in studies:
        times[past.name] = count = times.get(past.name, 0) + 1
        found.append(past if count == 1 else dataclasses.replace(past, name=f"{past.name}~{count}"))
    return found


def _past_trial(trial: TrialRecord) -> PastTrial:
    curve = tuple(PastReport(r.rung, r.accuracy.mean, r.seconds, r.accuracy.half_width) for r in trial.curve)
    return PastTrial(trial.config.values, curve, trial.state, trial.number)


def _report(message: str, on_broken: Callable[[str], None] | None) -> None:
    if on_broken:
        on_broken(message)
    else:
        warnings.warn(message, stacklevel=3)
