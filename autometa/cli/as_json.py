"""`--json`: the result of a command as one JSON object in a line of stdout, where then nothing else stands.

A search writes such a line for each event. Notes, questions and progress go to stderr or are left out.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="The result as JSON, for machines.")]


def print_json(facts: Mapping[str, Any]) -> None:
    """Print the object at once, made of plain values, records, dataclasses and paths."""
    print(json.dumps(_plain(facts), allow_nan=False), flush=True)


def _plain(value: Any) -> Any:
    """The value as JSON has it: NaN and infinity, which JSON has not, become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if hasattr(value, "model_dump"):
        return _plain(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, PurePath) else value
