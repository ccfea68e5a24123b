"""Several writes to trials of an Optuna storage at once: one transaction in a database, one call each elsewhere.

And a new trial, a transaction of its own, since all else needs its number. It writes the tables that `RDBStorage` does,
as that does, without the queries by which it finds out what other writers may have changed. It does not know who
writes, nor why.
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
from optuna.trial import FrozenTrial, TrialState

Kind = Literal["param", "intermediate_value", "user_attr", "system_attr"]
_TABLES: dict[Kind, sqlalchemy.Table] = {
    "param": models.TrialParamModel.__table__,
    "intermediate_value": models.TrialIntermediateValueModel.__table__,
    "user_attr": models.TrialUserAttributeModel.__table__,
    "system_attr": models.TrialSystemAttributeModel.__table__,
}
_TRIALS: sqlalchemy.Table = models.TrialModel.__table__
_VALUES: sqlalchemy.Table = models.TrialValueModel.__table__
_STUDIES: sqlalchemy.Table = models.StudyModel.__table__

_Columns = dict[str, Any]

# PostgreSQL does not wait for its disk: .24 ms in place of .46 on a fast one. A server that fails may lose the reports
# of its last second, which trials that go on bring again; the next end of a trial makes them last.
_NO_WAIT = "SET LOCAL synchronous_commit TO off"


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


def new_trial(storage: RDBStorage, study_id: int) -> FrozenTrial:
    """A trial that runs from now on, with the next number; others may add trials at the same time.

    Optuna's own takes twice as long, and counts all trials for its number.

    Raises:
        StorageInternalError: the database refuses.
    """
    dialect = storage.engine.dialect
    if dialect.name not in ("sqlite", "postgresql") or not dialect.insert_returning:
        return storage._create_new_trial(study_id)
    now = datetime.now()
    latest = sqlalchemy.select(_TRIALS.c.number + 1).filter_by(study_id=study_id).order_by(_TRIALS.c.trial_id.desc())
    number = sqlalchemy.func.coalesce(latest.limit(1).scalar_subquery(), 0)
    row = {"study_id": study_id, "number": number, "state": TrialState.RUNNING, "datetime_start": _utc(now)}
    insert = sqlalchemy.insert(_TRIALS).values(row).returning(_TRIALS.c.trial_id, _TRIALS.c.number)
    try:
        with storage.engine.begin() as connection:
            # As Optuna does: whoever adds a trial holds the study's row. SQLite has one writer anyway.
            connection.execute(sqlalchemy.select(_STUDIES.c.study_id).filter_by(study_id=study_id).with_for_update())
            trial_id, number = connection.execute(insert).one()
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise StorageInternalError("an exception is raised during the commit") from error
    return FrozenTrial(
        number=number,
        trial_id=trial_id,
        state=TrialState.RUNNING,
        value=None,
        datetime_start=now,
        datetime_complete=None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
    )


@dataclass(frozen=True)
class _Rows:
    """New rows by table; and changed ones, each by its table, the columns by which it is found, and the others."""

    new: dict[sqlalchemy.Table, list[_Columns]]
    changed: list[tuple[sqlalchemy.Table, _Columns, _Columns]]

    @property
    def is_progress(self) -> bool:
        """Whether trials reported, and did neither begin nor end."""
        tables = {table for table, rows in self.new.items() if rows} | {table for table, _, _ in self.changed}
        return _TABLES["intermediate_value"] in tables and not tables & {_TABLES["param"], _TRIALS}

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
            state = {"state": end.state, "datetime_complete": _utc(end.at)}
            rows.changed.append((_TRIALS, {"trial_id": end.trial_id}, state))
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
        connection.exec_driver_sql("; ".join([*([_NO_WAIT] if rows.is_progress else []), *filled]))


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


def _utc(at: datetime) -> datetime:
    """As Optuna keeps a local time."""
    return at.astimezone(UTC).replace(tzinfo=None)


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
