"""Studies in a line each: those in a storage, and those in archives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from autometa.archives import archive, read
from autometa.errors import AutometaError, StudyError
from autometa.hpo import study_record
from autometa.hpo.ledger import ended_records
from autometa.hpo.storage import damage_told, default_url, masked, open_storage, storage_exists
from autometa.past import PastStudy
from autometa.records import Accuracy, StudyRecord, TrialRecord
from autometa.study import confirm
from autometa.trial.abilities import marks


@dataclass(frozen=True)
class StudyLine:
    """One study: `trials` have ended; accuracies are of the confirmed winner, `marks` what they do not compare by.

    `winner` is the number of a trial, or the name of a baseline that no trial beats.
    """

    name: str
    dataset: str
    task: str
    trials: int
    winner: int | str | None
    validation: Accuracy | None
    test: Accuracy | None
    marks: tuple[str, ...]
    where: str


def archived_studies() -> Iterator[StudyLine]:
    """Your own archives and those that came with autometa; a broken one says so in `where`."""
    for folder in archive.list_archives():
        try:
            kept = read.read(folder)
        except AutometaError as error:
            yield StudyLine(folder.name, "?", "?", 0, None, None, None, (), f"broken: {error}")
        else:
            if isinstance(kept, PastStudy):
                yield _foreign(kept, where(folder))
            else:
                yield _line(kept.study, kept.trials, where(folder))


def stored_studies(url: str | None = None) -> Iterator[StudyLine]:
    """Studies that autometa made in a storage, `runs/autometa.db` by default; none if it is not there."""
    chosen = url or default_url()
    if not storage_exists(chosen):
        if url:
            raise StudyError(f"storage {masked(url)}: no such file")
        return
    storage = open_storage(chosen, create=False)
    with damage_told(chosen):
        for summary in storage.get_all_studies():
            study = optuna.load_study(study_name=summary.study_name, storage=storage)
            if study_record.is_ours(study):
                yield _line(study_record.read(study), ended_records(study), masked(chosen))


def where(folder: Path) -> str:
    """Where an archive is, for people."""
    return "came with autometa" if archive.is_shipped(folder) else str(folder)


def _foreign(past: PastStudy, place: str) -> StudyLine:
    return StudyLine(past.name, past.dataset or "–", "–", len(past.trials), None, None, None, (), place)


def _line(study: StudyRecord, trials: Sequence[TrialRecord], place: str) -> StudyLine:
    won = confirm.winner(study.confirmed)
    model = next((t for t in trials if won and t.number == won.trial), None)
    return StudyLine(
        name=study.name,
        dataset=Path(study.dataset).name,
        task=f"all {study.episodes}" if study.all_classes else str(study.episodes),
        trials=len(trials),
        winner=won.model if won else None,
        validation=won.validation if won else None,
        test=won.test if won else None,
        marks=marks(model.config.values, model.facts) if model else (),
        where=place,
    )
