"""A table of evaluations as past studies: one row a trial, or one row a rung of a trial.

It does not know files (`table_files.py` does).

Symbols: R rows of a study, T trials in them; arrays named by what they hold, one entry a row.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from autometa.archives import columns as cells
from autometa.archives.columns import Columns
from autometa.errors import ConfigError
from autometa.past import Direction, PastReport, PastStudy, PastTrial
from autometa.records import Scalar, TrialState


def from_table(frame: pd.DataFrame, columns: Columns, *, name: str, where: str) -> list[PastStudy]:
    """The studies in a table, in the order of their first rows.

    Args:
        name: of the study, and how the names begin where there is one for each task.
        where: the file, for messages.

    Raises:
        ConfigError: a column is missing or a cell is not what it should be; the message names the row, counted
            from 1 below the header.
    """
    table = _Table(frame, columns, cells.parameters(frame, columns, where), _Facts.of(frame, columns, where), where)
    if columns.task is None:
        return [PastStudy(name, table.trials(np.arange(len(frame))), columns.direction)]
    codes, tasks = pd.factorize(cells.words(frame, columns.task, where))
    return [
        PastStudy(f"{name}-{task}", table.trials(np.flatnonzero(codes == code)), columns.direction, dataset=task)
        for code, task in enumerate(tasks)
    ]


def from_frame(
    frame: pd.DataFrame, *, value: str, direction: Direction, name: str = "table", **columns: Any
) -> list[PastStudy]:
    """The past studies in a data frame of evaluations: a row is a trial, or a rung of one.

    Warns of columns that it takes for parameters and that never vary, or that seem to name tasks.

    Args:
        value: the column of what was measured, in any unit.
        direction: "maximize" or "minimize".
        name: of the study, and how the names begin where there is one for each task.
        columns: `task`, `rung`, `trial`, `seconds`, `half_width`, `state`, `params`, `rename` and `ignore`, as
            `autometa studies import` has them.

    Raises:
        ConfigError: as `from_table`; options of the command line that it names are arguments here.
        TypeError: there is no such argument.
    """
    said = Columns(value=value, direction=direction, **columns)
    found = from_table(frame, said, name=name, where=name)
    for hint in cells.hints(frame, said):
        warnings.warn(hint, stacklevel=2)
    return found


@dataclass(frozen=True)
class _Facts:
    """What is no parameter, an entry for each row of the table; NaN where nothing was noted."""

    value: np.ndarray
    rung: np.ndarray
    seconds: np.ndarray
    half_width: np.ndarray
    states: Sequence[TrialState | None] | None

    @classmethod
    def of(cls, frame: pd.DataFrame, columns: Columns, where: str) -> _Facts:
        def numbers(column: str | None, default: float) -> np.ndarray:
            return cells.numbers(frame, column, where) if column else np.full(len(frame), default)

        rung = numbers(columns.rung, 1.0)
        cells.complain_if(~np.isfinite(rung), frame, columns.rung, where, "is no number")
        if columns.trial:
            cells.words(frame, columns.trial, where)
        seconds, half_width = numbers(columns.seconds, math.nan), numbers(columns.half_width, math.nan)
        for column, found in ((columns.seconds, seconds), (columns.half_width, half_width)):
            cells.complain_if((found < 0) | np.isinf(found), frame, column, where, "may not be negative or infinite")
        states = cells.states(frame, columns.state, where) if columns.state else None
        return cls(numbers(columns.value, math.nan), rung, seconds, half_width, states)


@dataclass(frozen=True)
class _Table:
    frame: pd.DataFrame
    columns: Columns
    params: Mapping[str, str]
    facts: _Facts
    where: str

    def trials(self, rows: np.ndarray) -> tuple[PastTrial, ...]:
        """The trials in these rows, in the order of their first ones."""
        group = self._groups(rows)  # [R] which trial a row belongs to
        order = np.lexsort((self.facts.rung[rows], group))
        rows, group = rows[order], group[order]
        self._check_rungs(rows, group)
        starts = np.flatnonzero(np.diff(group, prepend=-1))  # [T]
        values = self._values(rows, starts)
        levels = self._levels(rows)
        parts = np.split(rows, starts[1:])
        trials = (self._trial(number, values[number], part, levels) for number, part in enumerate(parts))
        return tuple(trial for trial in trials if trial)

    def _groups(self, rows: np.ndarray) -> np.ndarray:
        keys = [self.columns.trial] if self.columns.trial else list(self.params) if self.columns.rung else []
        if not keys:
            return np.arange(len(rows))
        part = self.frame.iloc[rows]
        return pd.factorize(part.groupby(keys, sort=False, dropna=False).ngroup().to_numpy())[0]

    def _check_rungs(self, rows: np.ndarray, group: np.ndarray) -> None:
        again = np.flatnonzero((np.diff(group) == 0) & (np.diff(self.facts.rung[rows]) == 0))
        if self.columns.rung and not self.columns.trial and len(np.unique(self.facts.rung[rows])) > 1:
            self._check_that_any_goes_on(group)
        if not len(again):
            return
        if self.columns.rung is None:
            hint = "if they are its rungs, say in which column: --rung COLUMN"
        elif self.columns.trial is None:
            hint = "if they are two trials with the same parameters, tell them apart by --trial COLUMN"
        else:
            hint = "a trial has one value at a rung"
        first, second = (int(row) + 1 for row in sorted(rows[again[0] : again[0] + 2]))
        raise ConfigError(f"{self.where}: rows {first} and {second} are the same trial at the same rung; {hint}")

    def _check_that_any_goes_on(self, group: np.ndarray) -> None:
        """A column that changes from rung to rung, taken for a parameter, would make a trial of each row."""
        if len(np.unique(group)) == len(group):
            raise ConfigError(
                f"{self.where}: no two rows have the same parameters, so no trial has two rungs; say which rows are "
                "one trial (--trial COLUMN), or which columns are parameters (--params a,b,c)"
            )

    def _levels(self, rows: np.ndarray) -> np.ndarray:
        """What the table calls rungs 1, 2 …, where any trial has a value there."""
        return np.unique(self.facts.rung[rows][np.isfinite(self.facts.value[rows])])

    def _values(self, rows: np.ndarray, starts: np.ndarray) -> list[dict[str, Scalar]]:
        """The parameters of each trial, without its empty cells; all rows of a trial must agree."""
        values: list[dict[str, Scalar]] = [{} for _ in starts]
        lengths = np.diff([*starts, len(rows)])
        for column, parameter in self.params.items():
            codes = pd.factorize(self.frame[column].iloc[rows])[0]  # -1 where empty
            differs = np.flatnonzero(codes != np.repeat(codes[starts], lengths))
            if len(differs):
                row = int(rows[differs[0]]) + 1
                told_apart = f"{column} differs from another row of the same trial"
                raise ConfigError(f"{self.where}: row {row}: {told_apart}; if it is no parameter: --ignore {column}")
            first = self.frame[column].iloc[rows[starts]].astype(object).tolist()
            for own, cell, start in zip(values, first, starts, strict=True):
                if codes[start] >= 0:
                    own[parameter] = cells.scalar(cell, column, int(rows[start]) + 1, self.where)
        return values

    def _trial(
        self, number: int, values: Mapping[str, Scalar], rows: np.ndarray, levels: np.ndarray
    ) -> PastTrial | None:
        """One trial of its rows by rung, or None if it had not ended."""
        told: TrialState | None = self.facts.states[rows[-1]] if self.facts.states else "complete"
        if told is None:
            return None
        curve = self._curve(rows, levels)
        is_whole = len(curve) == len(rows)
        if told == "fail" or (told == "complete" and not is_whole):
            # What was noted for a trial that is said to have failed is often a penalty, not a measurement.
            return PastTrial(values, () if told == "fail" else curve, "fail", number)
        if told == "pruned" and self.columns.rung is None:
            return PastTrial(values, (), "pruned", number)  # its value is of a rung that nobody noted
        came_short = self.facts.states is None and curve[-1].rung < len(levels)
        return PastTrial(values, curve, "pruned" if came_short else told, number)

    def _curve(self, rows: np.ndarray, levels: np.ndarray) -> tuple[PastReport, ...]:
        """Its reports up to the first value that is no number."""
        lacks = np.flatnonzero(~np.isfinite(self.facts.value[rows]))
        rows = rows[: lacks[0]] if len(lacks) else rows
        rungs = np.searchsorted(levels, self.facts.rung[rows]) + 1
        facts = (self.facts.value[rows], self.facts.seconds[rows], self.facts.half_width[rows])
        return tuple(
            PastReport(rung, value, seconds, half_width)
            for rung, value, seconds, half_width in zip(rungs.tolist(), *(f.tolist() for f in facts), strict=True)
        )
