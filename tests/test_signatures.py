"""No function of the package takes more than ten arguments: what is handed on together belongs in one record.

Left out are the options of learners and backbones, which a search space sets one by one, and commands, whose arguments
are options of the command line. Records themselves may have more fields.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import typer

import autometa
from autometa.cli.app import app
from autometa.trial.build import BACKBONES, LEARNERS

PACKAGE = Path(autometa.__file__).parent
MOST = 10
# torch decides what this is called with, which is what aten's `convolution_backward` takes.
CALLED_BY_TORCH = {"_convolution_backward"}


def signatures(node: ast.AST, inside: str = "") -> Iterator[tuple[str, int]]:
    """Qualified name and number of arguments of each function, `self` and `cls` left out."""
    for child in ast.iter_child_nodes(node):
        name = inside
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{inside}.{child.name}".lstrip(".")
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            given = child.args
            every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            yield name, sum(one is not None and one.arg not in ("self", "cls", "ctx") for one in every)
        yield from signatures(child, name)


def commands(program: typer.Typer) -> set[str]:
    """Qualified names of the functions behind all commands."""
    own = {command.callback.__qualname__ for command in program.registered_commands if command.callback}
    groups = [group.typer_instance for group in program.registered_groups if group.typer_instance]
    return own.union(*(commands(group) for group in groups))


def too_long(folder: Path) -> dict[str, int]:
    """By module and qualified name."""
    return {
        f"{file.relative_to(folder).as_posix()}:{name}": count
        for file in sorted(folder.rglob("*.py"))
        for name, count in signatures(ast.parse(file.read_text()))
        if count > MOST
    }


def test_a_long_signature_is_found(tmp_path: Path) -> None:
    ten, eleven = (", ".join(f"a{number}" for number in range(count)) for count in (10, 11))
    (tmp_path / "a.py").write_text(
        f"class A:\n    def f(self, {ten}): ...\n    def g(self, {eleven}):\n        async def h({ten}, **more): ...\n"
    )
    assert too_long(tmp_path) == {"a.py:A.g": 11, "a.py:A.g.h": 11}


def test_no_signature_has_more_than_ten_arguments() -> None:
    options = {
        f"{cls.__qualname__}.__init__" for kind in (LEARNERS, BACKBONES) for one in kind.values() for cls in one.__mro__
    }
    by_name: dict[str, list[str]] = {}
    for where in too_long(PACKAGE):
        module, name = where.split(":")
        if not (name in options or (module.startswith("cli/") and name in commands(app))):
            by_name.setdefault(name, []).append(where)
    assert set(by_name) == CALLED_BY_TORCH, by_name
    assert all(len(places) == 1 for places in by_name.values()), by_name
