"""`autometa datasets`, `spaces` and `studies`: what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from autometa.cli.words import percent

Opt = typer.Option


def datasets(
    data_root: Annotated[Path | None, Opt(help="Where archives lie. [default: $AUTOMETA_DATA]")] = None,
) -> None:
    """List the data sets: what is on disk, classes, images, sizes, licences."""
    from autometa.data.load import describe_datasets

    table = _table("name", "title", "classes train/val/test", "images", "image", "on disk", "licence")
    for status in describe_datasets(data_root):
        split = "/".join(str(status.classes[name]) for name in ("train", "val", "test"))
        table.add_row(
            status.name,
            status.title,
            split,
            f"{status.images:,}",
            status.image,
            status.on_disk,
            status.licence,
        )
    _print(table)


def spaces(
    name: Annotated[str | None, typer.Argument(help="A name or a TOML file; without it, all are listed.")] = None,
) -> None:
    """Show and check search spaces."""
    from autometa.space.files import load_space, shipped_spaces

    if name is None:
        table = _table("name", "version", "parameters", "description")
        for space in map(load_space, shipped_spaces()):
            table.add_row(space.name, space.version, str(len(space.parameters)), space.description)
        return _print(table)
    from autometa.trial.check import check_space

    space = load_space(name)
    check_space(space)
    table = _table("parameter", "may be", "when")
    for parameter in space:
        when = ", ".join(f"{k} = {' | '.join(map(str, v))}" for k, v in parameter.when.items())
        table.add_row(parameter.name, parameter.allowed(), when)
    _print(table)
    print(
        f"{space.name} (version {space.version}): valid, {len(space.parameters)} parameters, {len(space.start)} starts"
    )
    return None


def studies(
    storage: Annotated[str | None, Opt(help="Optuna storage URL. [default: sqlite:///runs/autometa.db]")] = None,
) -> None:
    """List archived studies, and those in the storage."""
    from autometa.study.listing import archived_studies, stored_studies

    lines = [*archived_studies(), *stored_studies(storage)]
    table = _table("study", "data set", "task", "trials", "winner", "validation", "meta-test", "where")
    for line in lines:
        winner = "–" if line.winner is None else f"trial {line.winner}"
        winner += ", transductive" if line.transductive else ""
        accuracies = [percent(a) if a else "–" for a in (line.validation, line.test)]
        table.add_row(line.name, line.dataset, line.task, str(line.trials), winner, *accuracies, line.where)
    if lines:
        _print(table)
    else:
        print("no studies yet; start one with: autometa search")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Table) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 200  # a pipe has no width, and rich would fold at 80
    console.print(table)
