"""What happens in a search, as plain data: the one thing a live view or a log needs to know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from autometa.records import Accuracy, Baseline, Confirmation, RungReport, Scalar


@dataclass(frozen=True)
class Event:
    """Base of all events."""

    def as_dict(self) -> dict[str, Any]:
        """The event as JSON-ready data; `event` is its kind."""
        data = {k: v.model_dump() if hasattr(v, "model_dump") else v for k, v in vars(self).items()}
        return {"event": type(self).__name__, **data}


@dataclass(frozen=True)
class SearchStarted(Event):
    """All is checked, the cluster is up, the first trial is about to start. `prior` says what past studies did."""

    study: str
    dataset: str
    episodes: str
    budget: str
    trials: int | None
    ended: int
    workers: int
    gpus_per_trial: float
    deadline_seconds: float | None
    storage: str
    prior: str = ""


@dataclass(frozen=True)
class ClusterJoined(Event):
    """The search runs on a cluster there was; `cluster` says where it is and what it has."""

    cluster: str


@dataclass(frozen=True)
class LearningFromPast(Event):
    """Past studies are being fitted, which takes long where they have many trials and were not fitted before."""

    studies: int
    trials: int


@dataclass(frozen=True)
class BaselineMeasured(Event):
    """What the search has to beat was measured, before or beside its first trials."""

    baseline: Baseline


@dataclass(frozen=True)
class TrialStarted(Event):
    """A trial was proposed. `continues` is the interrupted trial whose checkpoint it goes on from."""

    number: int
    values: dict[str, Scalar]
    continues: int | None
    rung: int


@dataclass(frozen=True)
class TrainingStarted(Event):
    """A trial's worker is up and has taken the first step of its training, or of its continuation."""

    number: int


@dataclass(frozen=True)
class RungReached(Event):
    """A trial reported its accuracy on the fixed validation episodes; `rungs` is None where there is no last one."""

    number: int
    rungs: int | None
    report: RungReport


@dataclass(frozen=True)
class TrialPaused(Event):
    """A candidate of an open search waits: no worker has it, and it may go on."""

    number: int


@dataclass(frozen=True)
class TrialEnded(Event):
    """A trial is complete, pruned or fail; `accuracy` is its last one."""

    number: int
    state: str
    accuracy: Accuracy | None
    reason: str | None


@dataclass(frozen=True)
class Confirming(Event):
    """The best trials are being measured again on fresh episodes, and the best baseline beside them."""

    trials: list[int]
    episodes: int
    baseline: str | None = None


@dataclass(frozen=True)
class Retraining(Event):
    """The best trials' configurations are being trained again, each with these seeds."""

    seeds: dict[int, list[int]]


@dataclass(frozen=True)
class Confirmed(Event):
    """One of the best was measured again, on validation episodes it was not chosen by, or on meta-test."""

    confirmation: Confirmation


@dataclass(frozen=True)
class Warned(Event):
    """Something the user should know that does not end the search."""

    message: str


OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """An `OnEvent` for those who do not listen."""
