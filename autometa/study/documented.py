"""Records of settings whose fields carry their documentation, and functions that are called with these fields.

It knows no particular setting.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ParamSpec, TypeVar, get_args

from autometa.errors import ConfigError

P = ParamSpec("P")
S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True)
class About:
    """Documents one field of a settings record.

    Args:
        help: what the setting means, with its unit, and with its default where that is None.
        least: smallest value allowed; None for what is not a number.
        most: largest value allowed; None for no limit.
        parse: reads the text of the command line, where that is not a plain value of the field's type.
    """

    help: str
    least: int | None = None
    most: int | None = None
    parse: Callable[[str], Any] | None = None

    def check(self, name: str, value: Any) -> None:
        """Raise `ConfigError` where the value is out of range; None is always allowed."""
        if value is None or self.least is None:
            return
        if not self.least <= value <= (math.inf if self.most is None else self.most):
            most = f", and {self.most:,} at most" if self.most else ""
            raise ConfigError(f"--{name.replace('_', '-')} {value}: at least {self.least} is needed{most}")


def documented(record: type[Any]) -> dict[str, tuple[Any, About]]:
    """Type and documentation of each field of a record that is `Annotated[type, About(...)]`, by name."""
    return {f.name: get_args(f.type) for f in fields(record) if hasattr(f.type, "__metadata__")}


def with_fields_of(record: Callable[P, S]) -> Callable[[Callable[[S], R]], Callable[P, R]]:
    """Let a function of one record be called with the record's fields as arguments.

    Type checkers and editors know these arguments from the record, `help` has them with their documentation.
    """
    assert isinstance(record, type)
    about = documented(record)

    def decorate(function: Callable[[S], R]) -> Callable[P, R]:
        @functools.wraps(function)
        def called(*args: P.args, **given: P.kwargs) -> R:
            return function(record(*args, **given))

        signature = inspect.signature(record)
        plain = [p.replace(annotation=about.get(n, (p.annotation,))[0]) for n, p in signature.parameters.items()]
        lines = [f"    {name}: {documentation.help}" for name, (_, documentation) in about.items()]
        called.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Settings:", *lines])
        vars(called)["__signature__"] = inspect.Signature(plain, return_annotation=function.__annotations__["return"])
        return called

    return decorate
