"""Several writes to trials of an Optuna storage at once: one transaction in a database, one call each elsewhere.

It writes the tables that `RDBStorage` does, as that does, without the queries by which it finds out what other writers
may have changed. It does not know who writes, nor why.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._rdb import models

Kind = Literal["param", "intermediate_value", "user_attr", "system_attr"]
_TABLES: dict[Kind, sqlalchemy.Table] = {
    "param": models.TrialParamModel.__table__,
    "intermediate_value": models.TrialIntermediateValueModel.__table__,
    "user_attr": models.TrialUserAttributeModel.__table__,
    "system_attr": models.TrialSystemAttributeModel.__table__,
}


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


def write_all(storage: BaseStorage, writes: Iterable[Write]) -> None:
    """Write them all, or in a database none.

    Raises:
        StorageInternalError: the database refuses; nothing is written then.
    """
    if isinstance(storage, RDBStorage):
        _write_rows(storage, writes)
        return
    for write in writes:
        values = (write.value,) if write.distribution is None else (write.value, write.distribution)
        getattr(storage, f"set_trial_{write.kind}")(write.trial_id, write.key, *values)


def _write_rows(storage: RDBStorage, writes: Iterable[Write]) -> None:
    new: dict[Kind, list[dict[str, Any]]] = defaultdict(list)
    changed: list[tuple[Kind, dict[str, Any], dict[str, Any]]] = []
    for write in writes:
        where, what = _row(write)
        if write.is_new:
            new[write.kind].append(where | what)
        else:
            changed.append((write.kind, where, what))
    try:
        with storage.engine.begin() as connection:
            for kind, rows in new.items():
                connection.execute(sqlalchemy.insert(_TABLES[kind]), rows)
            for kind, where, what in changed:
                connection.execute(sqlalchemy.update(_TABLES[kind]).filter_by(**where).values(**what))
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise StorageInternalError("an exception is raised during the commit") from error


def _row(write: Write) -> tuple[dict[str, Any], dict[str, Any]]:
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
