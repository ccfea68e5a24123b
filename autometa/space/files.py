"""Search-space files: TOML in, `SearchSpace` out, one clear line about what is wrong.

Reading one never executes code. What the parameters mean is not known here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError

from autometa import aliases, shipped
from autometa.errors import SpaceError, did_you_mean
from autometa.parsing import parse_toml
from autometa.space.parameters import Choice, Parameter, Range, Scalar, same
from autometa.space.space import SearchSpace

_MOST_FILES = 20  # that extend one another
_LARGEST = 2**63 - 1  # what tensors and storages hold

# Keys of a start that are no parameters: for how many seconds of training on one core it is meant.
_FROM, _BELOW = "from_seconds", "below_seconds"

_Value = StrictBool | StrictInt | StrictFloat | StrictStr


class _ParameterTable(BaseModel):
    model_config = ConfigDict(extra="forbid")
    choices: list[_Value] | None = None
    low: StrictInt | StrictFloat | None = None
    high: StrictInt | StrictFloat | None = None
    log: StrictBool = False
    step: StrictInt | StrictFloat | None = None
    when: dict[str, _Value | list[_Value]] = {}


class _SpaceTable(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: StrictStr
    description: StrictStr = ""
    extends: StrictStr | None = None
    parameters: dict[str, _ParameterTable] = {}
    start: list[dict[str, _Value]] | None = None


def shipped_spaces() -> list[Path]:
    """The space files that come with autometa."""
    return sorted(shipped.folder("search_spaces").glob("*.toml"))


def load_space(name_or_file: str | Path) -> SearchSpace:
    """Load a shipped space by name (`few_shot`) or any TOML file by path.

    A file may say `extends = "few_shot"` (a shipped name, or a file beside it): it then starts from that
    space, and each parameter it names replaces the one there. What the other space has for values that are no
    longer taken is left out; its starts stay where they fit, with the first choice of what is new.

    Raises:
        SpaceError: no such space, or anything in the file is wrong; names the file and the field.
    """
    path = _find(str(name_or_file))
    table, is_inherited = _read(path, seen=())
    parameters = tuple(_parameter(name, p, path.name) for name, p in table.parameters.items())
    if not parameters:
        raise SpaceError(f"{path.name}: no [parameters.NAME] table; a space needs at least one")
    space = SearchSpace(table.name, parameters, description=table.description, source=path.name)
    starts, times = [], []
    for number, given in enumerate(table.start or [], 1):
        values, time = _start(given, f"{path.name}: start {number}")
        fitting = space.fitted(values) if is_inherited else values
        if fitting is not None:
            starts.append(fitting)
            times.append(time)
    return dataclasses.replace(space, start=tuple(starts), meant_for=tuple(times))


def _start(given: Mapping[str, _Value], where: str) -> tuple[dict[str, _Value], tuple[float, float]]:
    """The values of a start, and from and below how many seconds of training it is meant."""
    values = dict(given)
    least, end = _seconds(values, _FROM, 0.0, where), _seconds(values, _BELOW, math.inf, where)
    if least >= end:
        raise SpaceError(f"{where}: {_FROM} = {least:g} must be less than {_BELOW} = {end:g}")
    return values, (least, end)


def _seconds(values: dict[str, _Value], key: str, default: float, where: str) -> float:
    """Take what is given under this key out of the values of a start."""
    value = values.pop(key, default)
    if isinstance(value, bool | str) or not value >= 0:
        raise SpaceError(f"{where}: {key} = {value!r}: give a number of seconds")
    return float(value)


def _find(name: str, *, beside: Path | None = None) -> Path:
    if name.endswith(".toml") or "/" in name:
        path = (beside / name) if beside else Path(name)
        if not path.is_file():
            raise SpaceError(f"search space {name}: no such file")
        return path
    known = {path.stem: path for path in shipped_spaces()}
    if name not in known:
        raise SpaceError(f"unknown search space {name!r}; {did_you_mean(name, known)}; or give a .toml file")
    return known[name]


def _read(path: Path, *, seen: tuple[Path, ...]) -> tuple[_SpaceTable, bool]:
    """The table of a file with what it extends, and whether its starts come from there."""
    if path.resolve() in seen:
        raise SpaceError(f"{path.name}: `extends` leads back to itself")
    if len(seen) >= _MOST_FILES:
        raise SpaceError(f"{path.name}: `extends` leads through more than {_MOST_FILES} files")
    table = _with_names_of_now(_validated(_toml(path), path.name), path.name)
    if table.extends is None:
        return table, False
    base, _ = _read(_find(table.extends, beside=path.parent), seen=(*seen, path.resolve()))
    start = base.start if table.start is None else table.start
    update = {"parameters": _merged(base.parameters, table.parameters), "start": start}
    return table.model_copy(update=update), table.start is None


def _merged(base: dict[str, _ParameterTable], own: dict[str, _ParameterTable]) -> dict[str, _ParameterTable]:
    """Both, less the base's parameters that could never be active any more."""
    merged = {**base, **own}
    while True:
        narrowed = {n: p if n in own else _narrowed(p, merged) for n, p in merged.items()}
        kept = {n: p for n, p in narrowed.items() if p is not None}
        if kept == merged:
            return merged
        merged = kept


def _narrowed(table: _ParameterTable, others: Mapping[str, _ParameterTable]) -> _ParameterTable | None:
    """The parameter with only those values in `when` that its parents can have; None where one has none."""
    when: dict[str, _Value | list[_Value]] = {}
    for parent, wanted in table.when.items():
        values = wanted if isinstance(wanted, list) else [wanted]
        choices = others[parent].choices if parent in others else []
        possible = values if choices is None else [v for v in values if any(same(v, c) for c in choices)]
        if not possible:
            return None
        when[parent] = possible
    return table.model_copy(update={"when": when})


def _toml(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SpaceError(f"{path.name}: not valid TOML: {error}") from None
    except OSError as error:
        raise SpaceError(f"{path.name}: cannot be read: {error.strerror}") from None


def _validated(data: Mapping[str, Any], where: str) -> _SpaceTable:
    try:
        return _SpaceTable.model_validate(data)
    except ValidationError as error:
        raise SpaceError(f"{where}: {_complaint(error)}") from None


def _with_names_of_now(table: _SpaceTable, where: str) -> _SpaceTable:
    try:
        parameters = {
            name: parameter.model_copy(update={"when": aliases.renamed(parameter.when)})
            for name, parameter in aliases.renamed(table.parameters).items()
        }
        start = table.start and [aliases.renamed(values) for values in table.start]
    except ValueError as error:
        raise SpaceError(f"{where}: {error}") from None
    return table.model_copy(update={"parameters": parameters, "start": start})


def _complaint(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    *table, key = [str(part) for part in first["loc"] if not str(part).startswith("function-")]
    where = ".".join(table) or "top level"
    if first["type"] == "extra_forbidden":
        model = _ParameterTable if table[:1] == ["parameters"] else _SpaceTable
        return f"{where}: unknown key {key!r}; {did_you_mean(key, model.model_fields)}"
    if first["type"] == "missing":
        return f"{where}: {key!r} is missing"
    field = next((p for p in table if p in _ParameterTable.model_fields), key)
    return f"{'.'.join(table)}: {field}: {first['msg']} (got {first['input']!r})"


def _parameter(name: str, table: _ParameterTable, source: str) -> Parameter:
    where = f"{source}: {name}"
    for field in ("choices", "low", "high", "step"):
        _check_numbers(getattr(table, field), f"{where}: {field}")
    when = {k: tuple(v) if isinstance(v, list) else (v,) for k, v in table.when.items()}
    if table.choices is not None:
        return Choice(name, _choices(table, where), when=when)
    return _range(name, table, when, where)


def _check_numbers(values: Any, where: str) -> None:
    for value in values if isinstance(values, list) else [values]:
        if isinstance(value, float) and not math.isfinite(value):
            raise SpaceError(f"{where}: finite numbers are allowed, but got {value}")
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise SpaceError(f"{where}: numbers up to 2^63 - 1 are allowed, but got one of {value.bit_length()} bits")


def _choices(table: _ParameterTable, where: str) -> tuple[Scalar, ...]:
    assert table.choices is not None
    if table.low is not None or table.high is not None or table.step is not None or table.log:
        raise SpaceError(f"{where}: `choices` and `low`/`high`/`log`/`step` exclude each other")
    if not table.choices or len(set(map(repr, table.choices))) < len(table.choices):
        raise SpaceError(f"{where}: `choices` must be different values, at least one, but got {table.choices}")
    return tuple(table.choices)


def _range(name: str, table: _ParameterTable, when: dict[str, tuple[Scalar, ...]], where: str) -> Range:
    low, high, step = table.low, table.high, table.step
    if low is None or high is None:
        raise SpaceError(f"{where}: give `choices`, or both `low` and `high`")
    if not low <= high:
        raise SpaceError(f"{where}: `low <= high` must hold, but got (low={low:g}, high={high:g})")
    if table.log and (low <= 0 or step is not None):
        raise SpaceError(f"{where}: `log` needs low > 0 and no `step`, but got (low={low:g}, step={step})")
    if step is not None and step <= 0:
        raise SpaceError(f"{where}: `step` must be positive, but got {step:g}")
    integer = isinstance(low, int) and isinstance(high, int) and not isinstance(step, float)
    return Range(name, low, high, table.log, step, integer, when=when)
