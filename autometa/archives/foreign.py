"""The archive of studies that others made: values in their own units, bounded by nothing, minimised or maximised.

The same folder as an archive of autometa's own studies, with another format and fewer facts. It does not know
where they came from; `optuna_study.py` and `table.py` make them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from optuna.distributions import json_to_distribution
from pydantic import Field, field_validator

from autometa.aliases import renamed
from autometa.archives import folders
from autometa.past import PastReport, PastStudy, PastTrial
from autometa.records import MOST_RUNGS, Record, TrialConfig, TrialState, checked

FORMAT = "autometa-past/1"


class ForeignReport(Record):
    """What a trial showed at one rung, in the study's own units."""

    rung: int = Field(ge=1, le=MOST_RUNGS)
    value: float
    seconds: float | None = Field(None, ge=0)
    half_width: float | None = Field(None, ge=0)


class ForeignTrial(Record):
    """One ended trial of a study that autometa did not make."""

    number: int = Field(ge=0)
    state: TrialState
    config: TrialConfig
    curve: list[ForeignReport] = []

    @field_validator("curve")
    @classmethod
    def _rises(cls, curve: list[ForeignReport]) -> list[ForeignReport]:
        rungs = [report.rung for report in curve]
        if rungs != sorted(set(rungs)):
            raise ValueError(f"each rung once and in order, but got {rungs}")
        return curve


class ForeignStudy(Record):
    """What the trials of such a study have in common, as far as it is known."""

    name: str
    direction: Literal["maximize", "minimize"]
    dataset: str = ""
    origin: str = ""
    date: str | None = None
    ranges: dict[str, str] = {}
    features: dict[str, float] = {}

    @field_validator("ranges")
    @classmethod
    def _can_be_read(cls, ranges: dict[str, str]) -> dict[str, str]:
        for name, text in ranges.items():
            try:
                json_to_distribution(text)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                raise ValueError(f"{name} is no Optuna distribution in JSON: {error}") from None
        return renamed(ranges)


def write(root: Path, past: PastStudy) -> Path:
    """Write (or replace as a whole) the archive `root/<study name>/`; returns the folder.

    Raises:
        ConfigError: something in it cannot be kept, such as negative seconds; nothing has been written then.
    """
    about, trials = records_of(past)
    about = about.model_copy(update={"date": datetime.now(UTC).date().isoformat()})
    head = {"format": FORMAT, **about.model_dump(mode="json", exclude_none=True)}
    return folders.write(root, past.name, head, (trial.model_dump_json(exclude_none=True) for trial in trials))


def read(folder: Path) -> PastStudy:
    """Read one such archive; raises `StudyError` or `ConfigError` naming the file and what is wrong."""
    return with_head(folder, folders.head_of(folder, FORMAT))


def with_head(folder: Path, head: Mapping[str, Any]) -> PastStudy:
    """The same, of an archive of this format whose `study.toml` was read."""
    about = checked(ForeignStudy, head, where=str(folder / folders.HEAD))
    trials = [checked(ForeignTrial, data, where=where) for where, data in folders.read_lines(folder)]
    return PastStudy(
        name=about.name,
        trials=tuple(_past_trial(trial) for trial in trials),
        direction=about.direction,
        ranges=about.ranges,
        features=about.features,
        dataset=about.dataset,
        origin=about.origin or str(folder),
    )


def records_of(past: PastStudy) -> tuple[ForeignStudy, list[ForeignTrial]]:
    """The study as checked records; raises `ConfigError` naming the trial and the field that cannot be kept."""
    head = {
        "name": past.name,
        "direction": past.direction,
        "dataset": past.dataset,
        "origin": past.origin,
        "ranges": dict(past.ranges),
        "features": {name: value for name, value in past.features.items() if math.isfinite(value)},
    }
    where = f"study {past.name!r}"
    trials = [checked(ForeignTrial, _data(t), where=f"{where}: trial {t.number}") for t in past.trials]
    return checked(ForeignStudy, head, where=where), trials


def _data(trial: PastTrial) -> Mapping[str, object]:
    return {
        "number": trial.number,
        "state": trial.state,
        "config": {"values": dict(trial.values)},
        "curve": [
            {"rung": r.rung, "value": r.value, "seconds": _known(r.seconds), "half_width": _known(r.half_width)}
            for r in trial.curve
        ],
    }


def _past_trial(trial: ForeignTrial) -> PastTrial:
    curve = tuple(PastReport(r.rung, r.value, _number(r.seconds), _number(r.half_width)) for r in trial.curve)
    return PastTrial(trial.config.values, curve, trial.state, trial.number)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else value
