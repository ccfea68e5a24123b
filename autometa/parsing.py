"""TOML and JSON that somebody else wrote: whatever is wrong with it is one `ValueError`, before anyone looks at it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Any

_DEEPEST = 50  # tables in tables; what autometa writes has five


def parse_toml(text: str) -> dict[str, Any]:
    """What the TOML says; raises `ValueError` where it is not valid or too deep."""
    return _checked(lambda: tomllib.loads(text))


def parse_json(text: str) -> Any:
    """What the JSON says; raises `ValueError` where it is not valid, too deep, or gives a name in a table twice."""
    return _checked(lambda: json.loads(text, object_pairs_hook=_table))


def _checked(read: Callable[[], Any]) -> Any:
    too_deep = f"nested more than {_DEEPEST} deep"
    try:
        found = read()
    except RecursionError:
        raise ValueError(too_deep) from None
    except ValueError as error:
        if "integer string conversion" in str(error):
            raise ValueError("a number in it has thousands of digits") from None
        raise
    if _depth(found) > _DEEPEST:
        raise ValueError(too_deep)
    return found


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"{name!r} is given twice")
        table[name] = value
    return table


def _depth(data: Any) -> int:
    """How deep tables and lists go, found level by level: recursion is what this guards from."""
    level, depth = [data], 0
    while level:
        inside = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [one for values in inside for one in values if isinstance(one, dict | list)]
        depth += 1
    return depth
