"""The record of test looks: each measurement on test classes, written down on this machine.

Every model that is measured on the same test classes, and might be kept for it, makes the best of them look better
than it is. So what counts is distinct models: a look is the first measurement of one model on the test classes of one
data set. Measuring it again, with the same or other episodes, ways or attacks, chooses among nothing new: it is written
down as well, with the same number.

Test classes are told apart by their data set's fingerprint: the same images in another size count anew.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
from pydantic import ValidationError

from autometa.home import home
from autometa.records import Look

_SECONDS_TO_WAIT = 10


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, stacklevel=4)


def looks_at(dataset: str | None = None) -> list[Look]:
    """What was measured on test classes so far, oldest first; of one data set by its name or fingerprint."""
    looks = list(_read(_file()))
    if dataset is None:
        return looks
    fingerprints = {look.fingerprint for look in looks if dataset in (look.dataset, look.fingerprint)}
    return [look for look in looks if look.fingerprint in fingerprints]


def note(look: Look, warn: Callable[[str], None] = _warn_once) -> Look:
    """Write a look down; returned with its number, or without it and with a warning where nothing can be written."""
    try:
        home().mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(_file().with_suffix(".lock"), timeout=_SECONDS_TO_WAIT):
            numbered = look.model_copy(update={"number": _number(look, list(_read(_file())))})
            _append(_file(), numbered.model_dump_json(exclude_none=True))
    except (OSError, NotImplementedError) as error:  # filelock.Timeout is an OSError
        warn(f"the record of test looks cannot be written, this one is not counted: {error}")
        return look
    return numbered


def _file() -> Path:
    return home() / "test-looks.jsonl"


def _number(look: Look, before: list[Look]) -> int:
    """Its model's place among the models that were measured on these test classes."""
    models = dict.fromkeys(old.model for old in before if old.fingerprint == look.fingerprint)
    return [*models].index(look.model) + 1 if look.model in models else len(models) + 1


def _read(file: Path) -> Iterator[Look]:
    """The looks in a file; a line that is no look, as a crash may leave it, is passed over."""
    if not file.is_file():
        return
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            yield Look.model_validate_json(line)
        except ValidationError:
            continue


def _append(file: Path, line: str) -> None:
    with file.open("ab+") as out:
        is_torn = out.tell() > 0 and out.seek(-1, os.SEEK_END) >= 0 and out.read(1) != b"\n"
        out.write((b"\n" if is_torn else b"") + line.encode() + b"\n")
        out.flush()
        os.fsync(out.fileno())
