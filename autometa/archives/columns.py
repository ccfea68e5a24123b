"""What the columns of a table mean, and their cells as numbers, words and parameters.

It does not know which rows make a trial (`table.py` does).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from autometa.errors import ConfigError, did_you_mean
from autometa.past import Direction
from autometa.records import Scalar, TrialState

_NO_NUMBER = {"none", "null", "n/a", "-nan"}
# Names of columns, without "_id" and "_name", that say which data set a row is of.
_TASKS = {"task", "dataset", "data_set", "data", "problem", "benchmark", "instance", "openml_task", "openml"}
_STATES: dict[str, TrialState | None] = {
    **dict.fromkeys(("complete", "completed", "ok", "success", "finished", "done"), "complete"),
    **dict.fromkeys(("pruned", "stopped"), "pruned"),
    **dict.fromkeys(("fail", "failed", "error", "crashed"), "fail"),
    **dict.fromkeys(("running", "waiting"), None),
}


@dataclass(frozen=True)
class Columns:
    """Which column of a table is what.

    Args:
        value: what was measured, in any unit.
        direction: whether greater values are better; nobody can guess it.
        rung: how far the trial was; its n-th distinct number is rung n of a study. Without it each row is a trial.
        trial: which rows are one trial; without it, those with the same parameters.
        task: one study for each of its values.
        params: the columns that are parameters; without it, all that are nothing else.
        rename: names of parameters by column.
        ignore: columns that are nothing.
    """

    value: str
    direction: Direction
    rung: str | None = None
    trial: str | None = None
    task: str | None = None
    seconds: str | None = None
    half_width: str | None = None
    state: str | None = None
    params: Sequence[str] = ()
    rename: Mapping[str, str] = field(default_factory=dict)
    ignore: Sequence[str] = ()

    def roles(self) -> dict[str, str]:
        """The columns that are no parameters, by the option that names them."""
        named = {
            "--value": self.value,
            "--rung": self.rung,
            "--trial": self.trial,
            "--task": self.task,
            "--seconds": self.seconds,
            "--half-width": self.half_width,
            "--state": self.state,
        }
        return {option: column for option, column in named.items() if column is not None}


def parameters(frame: pd.DataFrame, columns: Columns, where: str) -> dict[str, str]:
    """Names of parameters by column; raises `ConfigError` naming the option and the column that is not there."""
    known = [str(c) for c in frame.columns]
    roles = columns.roles()
    for option, column in [*roles.items(), *(("--params", c) for c in columns.params)]:
        _check_known(column, option, known, where)
    for option, names in (("--rename", columns.rename), ("--ignore", columns.ignore)):
        for column in names:
            _check_known(column, option, known, where)
    for column in columns.params:
        if column in roles.values():
            raise ConfigError(f"--params {column}: this column is the {_option_of(column, roles)}")
    chosen = columns.params or [c for c in known if c not in roles.values()]
    params = {column: columns.rename.get(column, column) for column in chosen if column not in columns.ignore}
    names = list(params.values())
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"--rename: two columns would become the parameter {twice!r}")
    if not params:
        raise ConfigError(f"{where}: no column is left for parameters")
    return params


def hints(frame: pd.DataFrame, columns: Columns) -> list[str]:
    """What may have been overlooked, for people: columns taken for parameters that never vary, or that name tasks."""
    taken = [] if columns.params else list(parameters(frame, columns, "the table"))
    distinct = {name: frame[name].nunique(dropna=False) for name in taken}
    found = []
    if same := [name for name in taken if len(frame) > 1 and distinct[name] <= 1]:
        which = f"column {same[0]} is" if len(same) == 1 else f"columns {', '.join(same)} are"
        ignoring = " ".join(f"--ignore {name}" for name in same)
        found.append(f"{which} the same in all rows, which teaches nothing; if no parameter: {ignoring}")
    for name in taken:
        is_task = name.lower().removesuffix("_id").removesuffix("_name") in _TASKS and distinct[name] > 1
        if is_task and columns.task is None:
            found.append(f"column {name} is taken for a parameter; if it tells data sets apart: --task {name}")
    return found


def _check_known(column: str, option: str, known: Sequence[str], where: str) -> None:
    if column not in known:
        raise ConfigError(f"{option} {column}: {where} has no such column; {did_you_mean(column, known)}")


def _option_of(column: str, roles: Mapping[str, str]) -> str:
    return next(option for option, name in roles.items() if name == column).removeprefix("--")


def scalar(cell: Any, column: str, row: int, where: str) -> Scalar:
    """The cell of a parameter as plain data; what is no number, text or boolean becomes text."""
    plain = cell.item() if isinstance(cell, np.generic) else cell
    if isinstance(plain, float) and not math.isfinite(plain):
        raise ConfigError(f"{where}: row {row}: {column} is {plain}")
    return plain if isinstance(plain, bool | int | float | str) else str(plain)


def numbers(frame: pd.DataFrame, column: str, where: str) -> np.ndarray:
    """A column as floats, NaN where it is empty."""
    cells = frame[column]
    found = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=float, na_value=math.nan)
    is_word = np.isnan(found) & cells.notna().to_numpy()
    for row in np.flatnonzero(is_word):
        text = str(cells.iloc[row])
        if text.strip().lower() not in _NO_NUMBER:
            raise ConfigError(f"{where}: row {row + 1}: {column} is {text!r}, not a number")
    return found


def words(frame: pd.DataFrame, column: str, where: str) -> np.ndarray:
    """A column as text, without an empty cell."""
    complain_if(frame[column].isna().to_numpy(), frame, column, where, "is empty")
    return frame[column].astype(str).to_numpy(dtype=object)


def states(frame: pd.DataFrame, column: str, where: str) -> list[TrialState | None]:
    """A column as states, in the words of Optuna, Ray and others; None where the trial had not ended."""
    said = [text.rsplit(".", 1)[-1].lower() for text in words(frame, column, where)]  # TrialState.PRUNED too
    for row, word in enumerate(said, 1):
        if word not in _STATES:
            known = ", ".join(_STATES)
            raise ConfigError(f"{where}: row {row}: {column} is {word!r}; it may be {known}")
    return [_STATES[word] for word in said]


def complain_if(wrong: np.ndarray, frame: pd.DataFrame, column: str | None, where: str, says: str) -> None:
    """Raise `ConfigError` naming the first row in which a cell is wrong."""
    if column is not None and wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        cell = frame[column].iloc[row]
        raise ConfigError(f"{where}: row {row + 1}: {column} {says} (got {'' if pd.isna(cell) else cell})")
