"""What autometa keeps in the `user_attrs` of an Optuna trial: each key with its type and meaning, in one place.

The keys are in the storages of users, so they never change. A trial of somebody else's study may have an attribute
of the same name and of another type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, overload

from autometa.records import Scalar

T = TypeVar("T")


class _Readable(Protocol):
    @property
    def user_attrs(self) -> Mapping[str, Any]: ...


class _Writable(Protocol):
    def set_user_attr(self, key: str, value: Any) -> None: ...


@dataclass(frozen=True)
class TrialAttribute(Generic[T]):
    """One attribute of trials, under its key."""

    key: str

    @overload
    def of(self, trial: _Readable) -> T | None: ...
    @overload
    def of(self, trial: _Readable, default: T) -> T: ...
    def of(self, trial: _Readable, default: T | None = None) -> T | None:
        """The trial's value; the default where it has none."""
        return trial.user_attrs.get(self.key, default)

    def required_of(self, trial: _Readable) -> T:
        """The trial's value; raises `KeyError` where it has none."""
        value: T = trial.user_attrs[self.key]
        return value

    def write(self, trial: _Writable, value: T) -> None:
        """Store the value with the trial."""
        trial.set_user_attr(self.key, value)

    def entry(self, value: T) -> dict[str, Any]:
        """The attribute as a part of the `user_attrs` of a trial that is to be created."""
        return {self.key: value}


SEED = TrialAttribute[int]("seed")  # that it trains with
FOLDER = TrialAttribute[str]("folder")  # of its checkpoint, below the study's
CURVE = TrialAttribute[list[dict[str, Any]]]("curve")  # one `RungReport` per rung reached, as JSON
FACTS = TrialAttribute[dict[str, Scalar]]("facts")  # that its worker found: parameters, operations, steps
FAIL_REASON = TrialAttribute[str]("fail_reason")  # of a FAIL trial
ORIGIN = TrialAttribute[str]("origin")  # where its configuration comes from, and why
INTERRUPTED = TrialAttribute[bool]("interrupted")  # FAIL in name only: it continues as a later trial
CONTINUES = TrialAttribute[int]("continues")  # number of the trial whose checkpoint it starts from
ATTEMPTS = TrialAttribute[int]("attempts")  # how many drivers died while it was running
IS_WAITING = TrialAttribute[bool]("is_waiting")  # RUNNING in name only: no worker has it, and it may go on
TOGETHER_WITH = TrialAttribute[int]("together_with")  # number of the first trial of its group
