"""The archive of autometa's own past studies: small text that outlives storages and checkpoints.

What a search writes when it ends, and what `studies archive` writes before. It does not know how a search is
run; studies of others have a format of their own (`foreign.py`), since their values are no accuracies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autometa import home, shipped
from autometa.archives import folders
from autometa.records import StudyRecord, TrialRecord, checked

ARCHIVES = home.OWN_STUDIES
_BEFORE = Path("studies")  # where they were written up to version 0.1; in a checkout, what ships is there
FORMAT = "autometa-study/1"


@dataclass(frozen=True)
class ArchivedStudy:
    """One past study, read back."""

    path: Path
    study: StudyRecord
    trials: tuple[TrialRecord, ...]


def write(root: Path, study: StudyRecord, trials: Sequence[TrialRecord]) -> Path:
    """Write (or replace as a whole) the archive `root/<study name>/`; returns the folder."""
    head = {"format": FORMAT, **study.model_dump(mode="json", exclude_none=True)}
    return folders.write(root, study.name, head, (trial.model_dump_json(exclude_none=True) for trial in trials))


def read(folder: Path) -> ArchivedStudy:
    """Read one archive; raises `StudyError` or `ConfigError` naming the file and what is wrong."""
    return with_head(folder, folders.head_of(folder, FORMAT))


def with_head(folder: Path, head: Mapping[str, Any]) -> ArchivedStudy:
    """The same, of an archive of this format whose `study.toml` was read."""
    study = checked(StudyRecord, head, where=str(folder / folders.HEAD))
    trials = (checked(TrialRecord, data, where=where) for where, data in folders.read_lines(folder))
    return ArchivedStudy(folder, study, tuple(trials))


def list_archives(*roots: Path) -> Iterator[Path]:
    """Folders of archived studies under these roots.

    Without any, they are your own and the shipped ones. Where two have one name, your own counts.
    """
    seen = set()
    for root in roots or (ARCHIVES, _BEFORE, shipped.folder("studies")):
        for folder in folders.found_in(root):
            which = folder.resolve() if roots else folder.name
            if which not in seen:
                seen.add(which)
                yield folder


def own_archives(*roots: Path) -> dict[str, Path]:
    """Your own archives by name, which are those that did not come with autometa; of `list_archives(*roots)`."""
    return {folder.name: folder for folder in list_archives(*roots) if not is_shipped(folder)}


def is_shipped(folder: Path) -> bool:
    """Whether an archive came with autometa; such are read and never removed."""
    return folder.parent.resolve() == shipped.folder("studies").resolve()
