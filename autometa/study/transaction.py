"""Several writes to trials of an Optuna storage at once: one transaction in a database, one call each elsewhere.

It writes the tables that `RDBStorage` does, as that does, without the queries by which it finds out what other writers
may have changed. It does not know who writes, nor why.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Literal

import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState

Kind = Literal["param", "intermediate_value", "user_attr", "system_attr"]
_TABLES: dict[Kind, sqlalchemy.Table] = {
    "param": models.TrialParamModel.__table__,
    "intermediate_value": models.TrialIntermediateValueModel.__table__,
    "user_attr": models.TrialUserAttributeModel.__table__,
    "system_attr": models.TrialSystemAttributeModel.__table__,
}
_TRIALS: sqlalchemy.Table = models.TrialModel.__table__
_VALUES: sqlalchemy.Table = models.TrialValueModel.__table__

_Columns = dict[str, Any]


@dataclass(frozen=True)
class Write:
    """One value of a running trial. `is_new` says that it had none of that kind and key.

    Args:
        key: name of a parameter or an attribute; step of an intermediate value.
        distribution: of a parameter, whose value is in Optuna's internal representation.
    """

    trial_id: int
    kind: Kind
    key: str | int
    value: Any
    is_new: bool
    distribution: BaseDistribution | None = None


@dataclass(frozen=True)
class End:
    """How a running trial ended, and at what local time."""

    trial_id: int
    state: TrialState
    values: Sequence[float] | None
    at: datetime


def write_all(storage: BaseStorage, writes: Iterable[Write], ends: Iterable[End] = ()) -> None:
    """Write them all, or in a database none; of a trial that ends what it has before its end.

    Raises:
        StorageInternalError: the database refuses; nothing is written then.
    """
    if isinstance(storage, RDBStorage):
        _write_rows(storage.engine, _Rows.of(writes, ends))
        return
    for write in writes:
        values = (write.value,) if write.distribution is None else (write.value, write.distribution)
        getattr(storage, f"set_trial_{write.kind}")(write.trial_id, write.key, *values)
    for end in ends:
        storage.set_trial_state_values(end.trial_id, end.state, end.values)


@dataclass(frozen=True)
class _Rows:
    """New rows by table; and changed ones, each by its table, the columns by which it is found, and the others."""

    new: dict[sqlalchemy.Table, list[_Columns]]
    changed: list[tuple[sqlalchemy.Table, _Columns, _Columns]]

    @classmethod
    def of(cls, writes: Iterable[Write], ends: Iterable[End]) -> _Rows:
        rows = cls(defaultdict(list), [])
        for write in writes:
            where, what = _row(write)
            if write.is_new:
                rows.new[_TABLES[write.kind]].append(where | what)
            else:
                rows.changed.append((_TABLES[write.kind], where, what))
        for end in ends:
            rows.new[_VALUES] += _values(end)
            at = end.at.astimezone(UTC).replace(tzinfo=None)
            rows.changed.append((_TRIALS, {"trial_id": end.trial_id}, {"state": end.state, "datetime_complete": at}))
        return rows


def _write_rows(engine: sqlalchemy.Engine, rows: _Rows) -> None:
    write = _in_one_trip if engine.dialect.driver == "psycopg" else _one_by_one
    try:
        write(engine, rows)
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise StorageInternalError("an exception is raised during the commit") from error


def _one_by_one(engine: sqlalchemy.Engine, rows: _Rows) -> None:
    with engine.begin() as connection:
        for table, new in rows.new.items():
            if new:
                connection.execute(sqlalchemy.insert(table), new)
        for table, where, what in rows.changed:
            connection.execute(sqlalchemy.update(table).filter_by(**where).values(**what))


def _in_one_trip(engine: sqlalchemy.Engine, rows: _Rows) -> None:
    """PostgreSQL runs several statements of one message as one transaction; else each waits for the one before."""
    import psycopg

    statements = [_insert(table, new) for table, new in rows.new.items() if new]
    statements += [_update(*changed) for changed in rows.changed]
    options = {"isolation_level": "AUTOCOMMIT", "no_parameters": True}  # no BEGIN and COMMIT of its own
    with engine.connect().execution_options(**options) as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, psycopg.Connection)
        cursor = psycopg.ClientCursor(raw)
        filled = [cursor.mogrify(text, [_plain(value) for value in values]) for text, values in statements]
        connection.exec_driver_sql("; ".join(filled))


def _insert(table: sqlalchemy.Table, rows: Sequence[_Columns]) -> tuple[str, list[Any]]:
    """A statement with places, and what belongs there."""
    names = list(rows[0])
    row = f"({', '.join(['%s'] * len(names))})"
    text = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES {', '.join([row] * len(rows))}"
    return text, [columns[name] for columns in rows for name in names]


def _update(table: sqlalchemy.Table, where: _Columns, what: _Columns) -> tuple[str, list[Any]]:
    changes = ", ".join(f"{name} = %s" for name in what)
    conditions = " AND ".join(f"{name} = %s" for name in where)
    return f"UPDATE {table.name} SET {changes} WHERE {conditions}", [*what.values(), *where.values()]


def _plain(value: Any) -> Any:
    """As SQLAlchemy keeps it."""
    return value.name if isinstance(value, Enum) else value


def _values(end: End) -> list[_Columns]:
    pairs = [models.TrialValueModel.value_to_stored_repr(value) for value in end.values or ()]
    return [
        {"trial_id": end.trial_id, "objective": objective, "value": value, "value_type": kind}
        for objective, (value, kind) in enumerate(pairs)
    ]


def _row(write: Write) -> tuple[_Columns, _Columns]:
    """The columns by which a row is found, and the others."""
    of = {"trial_id": write.trial_id}
    if write.kind == "param":
        assert write.distribution is not None
        columns = {"param_value": write.value, "distribution_json": distribution_to_json(write.distribution)}
        return {**of, "param_name": write.key}, columns
    if write.kind == "intermediate_value":
        stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(write.value)
        return {**of, "step": write.key}, {"intermediate_value": stored, "intermediate_value_type": kind}
    return {**of, "key": write.key}, {"value_json": json.dumps(write.value)}
