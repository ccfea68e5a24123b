"""Options as constructors take them: what they are called, and whether values are of the kind they ask for."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from autometa.errors import ConfigError
from autometa.records import Scalar


def options_of(kind: Callable[..., Any]) -> list[str]:
    """The keyword-only arguments of a constructor."""
    signature = inspect.signature(kind)
    return [name for name, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY]


_KINDS: dict[type, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("a text", (str,)),
}
_LARGEST = 2**63 - 1  # what tensors hold


def check_kinds(options: Mapping[str, Scalar], kind: type, prefix: str = "") -> None:
    """Raise `ConfigError` where the value of an option is not of the kind that a constructor says it takes.

    What has no such annotation is left alone: a learner of another package need not have any.
    """
    wanted = _annotations(kind)
    for name, value in options.items():
        if wanted.get(name) not in _KINDS:
            continue
        words, kinds = _KINDS[wanted[name]]
        is_kind = type(value) in kinds  # true is an int for Python
        if not is_kind or (isinstance(value, int) and abs(value) > _LARGEST):
            raise ConfigError(f"{prefix}{name} = {value!r}: it must be {words}")


@functools.cache
def _annotations(kind: type) -> Mapping[str, Any]:
    try:
        parameters = inspect.signature(kind, eval_str=True).parameters
    except NameError:  # one that is there for type checkers alone
        return {}
    return {name: parameter.annotation for name, parameter in parameters.items()}
