"""Find one study by its name or folder, wherever it is kept, with all its trials; or its archive, to remove it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autometa import shipped
from autometa.archives import archive, folders, read
from autometa.archives.archive import ArchivedStudy
from autometa.archives.optuna_study import from_optuna
from autometa.errors import ConfigError, StudyError, did_you_mean
from autometa.hpo import study_record
from autometa.hpo.ledger import ended_records
from autometa.hpo.storage import default_url, load_study, masked, reading, storage_exists
from autometa.past import PastStudy
from autometa.records import StudyRecord
from autometa.study.listing import where


@dataclass(frozen=True)
class FoundStudy:
    """One past study: `about` is there for autometa's own only, `where` it is kept."""

    past: PastStudy
    about: StudyRecord | None
    where: str


def find_study(name: str, storage: str | None = None) -> FoundStudy:
    """A study by the folder of its archive, by its name among the archives, or by its name in a storage.

    With a storage, only that is looked into; without one, `runs/autometa.db` comes last.

    Raises:
        StudyError: there is none; the message names the nearest.
    """
    if storage:
        return _stored(name, storage)
    by_name = {folder.name: folder for folder in archive.list_archives()}
    folder = Path(name) if (Path(name) / folders.HEAD).is_file() else by_name.get(name)
    if folder:
        return _archived(folder)
    url = default_url()
    stored = _names(url)
    if name in stored:
        return _stored(name, url)
    known = {*by_name, *stored}
    raise StudyError(f"unknown study {name!r}; {did_you_mean(name, known) if known else 'there are none yet'}")


def own_archive(name: str, root: Path | None = None) -> Path:
    """The folder of one of your own archives, broken or not; raises where there is none of that name.

    Args:
        root: folder of archives; by default where searches write them.
    """
    mine = archive.own_archives(*([root] if root else []))
    if name in mine:
        return mine[name]
    if (shipped.folder("studies") / name / folders.HEAD).is_file() and folders.is_folder_name(name):
        raise ConfigError(f"study {name!r} came with autometa and stays")
    known = did_you_mean(name, mine) if mine else "there are none"
    raise StudyError(f"no study {name!r} in {root or archive.ARCHIVES}; {known}")


def _archived(folder: Path) -> FoundStudy:
    kept = read.read(folder)
    if isinstance(kept, ArchivedStudy):
        return FoundStudy(read.as_past(kept.study, kept.trials), kept.study, where(folder))
    return FoundStudy(kept, None, where(folder))


def _stored(name: str, url: str) -> FoundStudy:
    with reading(url) as storage:
        study = load_study(name, storage)
        if not study_record.is_ours(study):
            return FoundStudy(from_optuna(study), None, masked(url))
        about = study_record.read(study)
        return FoundStudy(read.as_past(about, ended_records(study)), about, masked(url))


def _names(url: str) -> list[str]:
    if not storage_exists(url):
        return []
    with reading(url) as storage:
        return [summary.study_name for summary in storage.get_all_studies()]
