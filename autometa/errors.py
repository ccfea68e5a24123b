"""Every error a user can meet, in one small tree.

The command line turns an `AutometaError` into one line on stderr and exit code 2. Anything else that
escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable

_NOTHING_CAN_BE_WRITTEN = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "read-only",
    errno.EACCES: "permission denied",
}


class AutometaError(Exception):
    """Something the user can put right; the message says what happened and what to do next."""


class ConfigError(AutometaError):
    """A configuration, option or combination of options that cannot be carried out."""


class SpaceError(ConfigError):
    """A search-space file that is wrong; the message names the file, the field and what is allowed."""


class DataError(AutometaError):
    """A data set that is unknown, broken, too small, or cannot be fetched."""


class StudyError(AutometaError):
    """A study that does not exist, is locked, or was made with other settings."""


class StorageError(StudyError):
    """A storage that cannot be reached or read."""


class CheckpointError(AutometaError):
    """A checkpoint that is missing, incomplete, or does not fit the model."""


class DivergedError(AutometaError):
    """Training produced a loss that is not finite; the trial is FAIL and the search goes on."""


class OutOfTimeError(AutometaError):
    """Work that was stopped since its time is over; what was done of it is kept."""


class StopSearchError(AutometaError):
    """What would end every trial of a search alike, such as a full disk; it stops, and its trials can be continued."""


class DataChangedError(StopSearchError, DataError):
    """A data set that is not, or no longer, the one that this was begun with."""


class StackError(AutometaError):
    """Candidates that cannot be trained together; each can be trained alone."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence naming the nearest known name, then all of them, to end an error message with."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}known: {', '.join(names)}"


def require_one_of(option: str, value: object, allowed: Iterable[object]) -> None:
    """Raise `ConfigError` unless an option has one of these values."""
    known = tuple(allowed)
    if value not in known:
        raise ConfigError(f"{option} = {value!r}: it may be {' | '.join(map(str, known))}")


def first_line(error: Exception) -> str:
    """What an error of another library says first, or of what kind it is where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def write_trouble(error: OSError) -> str | None:
    """Why nothing can be written there, for people; None where the error is of another kind.

    Trying again fails in the same way until the user has put it right.
    """
    return _NOTHING_CAN_BE_WRITTEN.get(error.errno or 0)
