"""Options that several commands have, and options that are made from a record of settings."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from autometa.study.documented import About, documented
from autometa.study.search_settings import SearchSettings

LARGEST_SEED = 2**62  # as in `records`, which would make `--help` slow

Storage = Annotated[str | None, typer.Option(help=documented(SearchSettings)["storage"][1].help)]
DataRoot = Annotated[Path | None, typer.Option(help="Where archives lie. [default: $AUTOMETA_DATA]")]
Dataset = Annotated[str | None, typer.Option(metavar="DIR", help="Where the image folder is now, if it was moved.")]
Gpu = Annotated[bool | None, typer.Option("--gpu/--cpu", help="[default: a GPU where there is one]")]


def options_from(record: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function of one record: each field becomes an option, before the function's own options."""
    about = documented(record)

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(**given: Any) -> None:
            settings = record(**{name: _read(about[name][1], given.pop(name)) for name in about})
            function(settings, **given)

        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        options = [_option(f.name, f.default, *about[f.name]) for f in fields(record) if f.name in about]
        signature = inspect.Signature([*options, *own])
        vars(command)["__signature__"] = signature
        command.__annotations__ = {name: option.annotation for name, option in signature.parameters.items()}
        return command

    return decorate


def _read(about: About, given: Any) -> Any:
    return about.parse(given) if about.parse and given else given


def _option(name: str, default: Any, kind: Any, about: About) -> inspect.Parameter:
    names = [f"--{name.replace('_', '-')}"] if kind is bool else []  # no --no-…
    option = typer.Option(*names, help=about.help + _range(about))
    kind = str | None if about.parse else kind
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _range(about: About) -> str:
    if about.least is None:
        return ""
    return f" [at least {about.least}]" if about.most is None else f" [{about.least} … {about.most}]"
