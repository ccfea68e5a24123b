"""`autometa datasets` and `spaces`: what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autometa.cli.tables import new_table, print_table

Opt = typer.Option


def datasets(
    data_root: Annotated[Path | None, Opt(help="Where archives lie. [default: $AUTOMETA_DATA]")] = None,
) -> None:
    """List the data sets: what is on disk, classes, images, sizes, licences."""
    from autometa.data.load import describe_datasets

    table = new_table("name", "title", "classes train/val/test", "images", "image", "on disk", "licence")
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
    print_table(table)


def spaces(
    name: Annotated[str | None, typer.Argument(help="A name or a TOML file; without it, all are listed.")] = None,
) -> None:
    """Show and check search spaces."""
    from autometa.space.files import load_space, shipped_spaces

    if name is None:
        table = new_table("name", "version", "parameters", "description")
        for space in map(load_space, shipped_spaces()):
            table.add_row(space.name, space.version, str(len(space.parameters)), space.description)
        return print_table(table)
    from autometa.trial.check import check_space

    space = load_space(name)
    check_space(space)
    table = new_table("parameter", "may be", "when")
    for parameter in space:
        when = ", ".join(f"{k} = {' | '.join(map(str, v))}" for k, v in parameter.when.items())
        table.add_row(parameter.name, parameter.allowed(), when)
    print_table(table)
    print(
        f"{space.name} (version {space.version}): valid, {len(space.parameters)} parameters, {len(space.start)} starts"
    )
    return None
