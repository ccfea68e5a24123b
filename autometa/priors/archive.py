"""The archive of past studies: one folder a study, small text that outlives storages and checkpoints.

`study.toml` says what was searched, `trials.jsonl` holds one ended trial a line with its curve. It does
not know how a search is run.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from autometa import shipped
from autometa.errors import ConfigError, StudyError
from autometa.records import StudyRecord, TrialRecord, checked

ARCHIVES = Path("studies")
_FORMAT = "autometa-study/1"


@dataclass(frozen=True)
class ArchivedStudy:
    """One past study, read back."""

    path: Path
    study: StudyRecord
    trials: tuple[TrialRecord, ...]


def write(root: Path, study: StudyRecord, trials: Sequence[TrialRecord]) -> Path:
    """Write (or replace as a whole) the archive `root/<study name>/`; returns the folder."""
    root.mkdir(parents=True, exist_ok=True)
    target = root / study.name
    draft = Path(tempfile.mkdtemp(prefix=f".{study.name}-", dir=root))
    try:
        head = {"format": _FORMAT, **study.model_dump(mode="json", exclude_none=True)}
        (draft / "study.toml").write_text(tomli_w.dumps(head), encoding="utf-8")
        lines = [trial.model_dump_json(exclude_none=True) for trial in trials]
        (draft / "trials.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        _swap(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def read(folder: Path) -> ArchivedStudy:
    """Read one archive; raises `StudyError` or `ConfigError` naming the file and what is wrong."""
    file = folder / "study.toml"
    try:
        head = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError:
        raise StudyError(f"{folder}: not an archived study: no readable study.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise StudyError(f"{file}: not valid TOML: {error}") from None
    if head.pop("format", None) != _FORMAT:
        raise StudyError(f"{file}: format is not {_FORMAT!r}")
    study = checked(StudyRecord, head, where=str(file))
    return ArchivedStudy(folder, study, tuple(_read_trials(folder / "trials.jsonl")))


def list_archives(*roots: Path) -> Iterator[Path]:
    """Folders of archived studies under these roots, by default `./studies` and the shipped ones."""
    seen = set()
    for root in roots or (ARCHIVES, shipped.folder("studies")):
        for file in sorted(root.glob("*/study.toml")):
            if file.resolve() not in seen:
                seen.add(file.resolve())
                yield file.parent


def _read_trials(file: Path) -> Iterator[TrialRecord]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise StudyError(f"{file}: cannot be read") from None
    for number, line in enumerate(lines, 1):
        try:
            data = json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{file}: line {number}: not valid JSON: {error.msg}") from None
        yield checked(TrialRecord, data, where=f"{file}: line {number}")


def _swap(draft: Path, target: Path) -> None:
    """Put the draft in the target's place; a folder cannot be replaced in one step, so the old steps aside."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.chmod(draft, 0o755)  # mkdtemp makes it private
    os.rename(draft, target)
    shutil.rmtree(old, ignore_errors=True)
