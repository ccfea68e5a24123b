"""Studies that were made elsewhere become archives: from a storage, other archives, or a table.

Everything is read and checked before anything is written. It does not know what a prior makes of them.
"""

from __future__ import annotations

import dataclasses
import itertools
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from autometa.archives import archive, folders, foreign, read
from autometa.archives.archive import ArchivedStudy
from autometa.archives.columns import Columns, hints
from autometa.archives.optuna_study import from_optuna
from autometa.archives.table import from_table
from autometa.archives.table_files import is_table, read_table, table_name
from autometa.errors import ConfigError, StudyError, did_you_mean
from autometa.hpo import study_record
from autometa.hpo.ledger import ended_records
from autometa.hpo.storage import load_study, masked, reading
from autometa.past import PastStudy, PastTrial
from autometa.records import StudyRecord, TrialRecord

OnStudy = Callable[[int, int], None]
"""Called with how many studies have been read, and of how many."""


@dataclass(frozen=True)
class Incoming:
    """A study that was read and checked, and is not yet written: autometa's own with its record, or another's."""

    study: StudyRecord | PastStudy
    trials: Sequence[TrialRecord | PastTrial]

    @property
    def name(self) -> str:
        """What it is called, and its folder once `read_source` or `from_search` gave it out."""
        return self.study.name

    def called(self, name: str) -> Incoming:
        """The same under another name."""
        if isinstance(self.study, StudyRecord):
            return Incoming(self.study.model_copy(update={"name": name}), self.trials)
        return Incoming(dataclasses.replace(self.study, name=name), self.trials)

    def write(self, root: Path) -> Path:
        """Write its archive; returns the folder."""
        if isinstance(self.study, PastStudy):
            return foreign.write(root, self.study)
        return archive.write(root, self.study, [t for t in self.trials if isinstance(t, TrialRecord)])


@dataclass(frozen=True)
class Read:
    """What a source holds, what of it there is nothing to learn from, with the reason, and hints for people."""

    studies: list[Incoming]
    left_out: list[str]
    hints: Sequence[str] = ()

    @classmethod
    def of(cls, found: Iterable[Incoming | str]) -> Read:
        """Studies, and reasons why there is none, sorted out."""
        found = list(found)
        return cls([f for f in found if isinstance(f, Incoming)], [f for f in found if isinstance(f, str)])


def read_source(
    source: str,
    *,
    study: str | None = None,
    name: str | None = None,
    columns: Columns | None = None,
    on_study: OnStudy = lambda done, total: None,
) -> Read:
    """Read a storage URL, a folder of archives, a table, or the file of a storage.

    Args:
        study: only the one of this name.
        name: what to call it; of a table with tasks, how the names begin.
        columns: what the columns of a table are.

    Raises:
        AutometaError: what is wrong, with its place; studies without ended trials or with several objectives are
            left out when there are others.
    """
    path = Path(source)
    if path.is_file() and is_table(path):
        found = _from_table(path, columns, name)
    elif columns is not None:
        raise ConfigError(f"{masked(source)}: --value and other names of columns are for tables")
    elif path.is_dir():
        found = _from_folder(path, study, on_study)
    else:
        found = _from_storage(_url_of(source), study, on_study)
    if not found.studies:
        reasons = f": {'; '.join(found.left_out)}" if found.left_out else ""
        raise StudyError(f"{masked(source)}: no study to learn from{reasons}")
    chosen = _only(found.studies, study) if columns and study else found.studies
    return dataclasses.replace(found, studies=list(_with_names(chosen, None if columns else name)))


def from_search(name: str, url: str) -> Incoming:
    """One of autometa's own studies, as far as it has come."""
    with reading(url) as storage:
        study = load_study(name, storage)
        if not study_record.is_ours(study):
            raise StudyError(
                f"study {name!r} was not made by autometa search; bring it in with: "
                f"autometa studies import {shlex.quote(masked(url))} --study {shlex.quote(name)}"
            )
        own = _own(study)
    if not own.trials:
        raise StudyError(f"study {name!r}: no trial has ended yet")
    return own.called(folders.safe_name(name))


def check_free(studies: Iterable[Incoming], root: Path, *, replace: bool) -> None:
    """Raise `StudyError` where an archive exists and may not be replaced, or something else has its name."""
    there = [root / study.name for study in studies if (root / study.name).exists()]
    alien = next((folder for folder in there if not (folder / folders.HEAD).is_file()), None)
    if alien:
        raise StudyError(f"{alien} exists and is no archive; choose another --name or --to")
    if there and not replace:
        one, *more = there
        exist = f"{one} and {len(more)} more exist" if more else f"{one} exists"
        raise StudyError(f"{exist} already; add --replace to replace what is there, or give another --name or --to")


def _from_storage(url: str, name: str | None, on_study: OnStudy) -> Read:
    found: list[Incoming | str] = []
    with reading(url) as storage:
        if name:
            opened = [load_study(name, storage)]
        else:
            names = [summary.study_name for summary in storage.get_all_studies()]
            opened = [optuna.load_study(study_name=each, storage=storage) for each in names]
        for study in opened:
            found.append(_stored(study, url, is_wanted=name is not None))
            on_study(len(found), len(opened))
    return Read.of(found)


def _stored(study: optuna.Study, url: str, *, is_wanted: bool) -> Incoming | str:
    """The study, or why it is left out; one that was asked for by name raises where it cannot be learned from."""
    if len(study.directions) > 1 and not is_wanted:
        return f"study {study.study_name!r} has {len(study.directions)} objectives"
    one = _own(study) if study_record.is_ours(study) else _others(study, url)
    return one if one.trials else f"study {study.study_name!r} has no ended trial"


def _own(study: optuna.Study) -> Incoming:
    about = study_record.read(study)
    return Incoming(about.model_copy(update={"name": study.study_name}), ended_records(study))


def _others(study: optuna.Study, url: str) -> Incoming:
    return _foreign(from_optuna(study, origin=f"study {study.study_name!r} of {masked(url)}"))


def _foreign(past: PastStudy) -> Incoming:
    foreign.records_of(past)  # whatever cannot be kept is said before anything is written
    return Incoming(past, past.trials)


def _from_folder(root: Path, name: str | None, on_study: OnStudy) -> Read:
    paths = [root] if (root / folders.HEAD).is_file() else folders.found_in(root)
    if not paths:
        raise StudyError(f"{root}: no archive there: neither {folders.HEAD} nor folders with one")
    if name and name not in {path.name for path in paths}:
        raise StudyError(f"{root}: no study {name!r}; {did_you_mean(name, [path.name for path in paths])}")
    chosen = [path for path in paths if name in (None, path.name)]
    found: list[Incoming | str] = []
    for path in chosen:
        kept = read.read(path)
        one = Incoming(kept.study, kept.trials) if isinstance(kept, ArchivedStudy) else _foreign(kept)
        found.append(one if one.trials else f"{path} has no trials")
        on_study(len(found), len(chosen))
    return Read.of(found)


def _from_table(file: Path, columns: Columns | None, name: str | None) -> Read:
    frame = read_table(file)
    if columns is None:
        known = ", ".join(map(str, frame.columns))
        raise ConfigError(f"{file}: say which column was measured: --value COLUMN; there are {known}")
    pasts = from_table(frame, columns, name=name or table_name(file), where=str(file))
    studies = [_foreign(dataclasses.replace(past, origin=str(file))) for past in pasts if past.trials]
    return Read(studies, [], hints(frame, columns))


def _url_of(source: str) -> str:
    """The storage URL of a URL, a SQLite file or a journal."""
    if "://" in source or source.startswith("journal:"):
        return source
    try:
        with Path(source).open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise StudyError(
            f"{source}: {error.strerror}; give a storage URL, a folder of archives, or a table (.csv, .parquet)"
        ) from None
    if start == b"SQLite format 3\0":
        return f"sqlite:///{source}"
    if start.startswith(b'{"op_code"'):
        return f"journal:{source}"
    raise StudyError(f"{source}: neither a table (.csv, .parquet) nor a SQLite file or journal of Optuna")


def _only(studies: list[Incoming], name: str) -> list[Incoming]:
    known = [one.name for one in studies]
    if name not in known:
        raise StudyError(f"no study {name!r}; {did_you_mean(name, known)}")
    return [one for one in studies if one.name == name]


def _with_names(studies: list[Incoming], name: str | None) -> Iterator[Incoming]:
    """The studies with names that are folders and that no two share; `name` is for a single one."""
    if name and len(studies) > 1:
        raise ConfigError(f"--name {name}: {len(studies)} studies come in; choose one of them by --study")
    taken: set[str] = set()
    for one in studies:
        wanted = folders.safe_name(name or one.name)
        others = (f"{wanted}-{count}" for count in itertools.count(2))
        free = next(name for name in itertools.chain([wanted], others) if name not in taken)
        taken.add(free)
        yield one.called(free)
