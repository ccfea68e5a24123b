"""`autometa datasets` and `spaces`: what there is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autometa.cli.as_json import Json, print_json
from autometa.cli.tables import new_table, print_table

if TYPE_CHECKING:
    from autometa.space.space import SearchSpace

Opt = typer.Option


def datasets(
    data_root: Annotated[Path | None, Opt(help="Where archives lie. [default: $AUTOMETA_DATA]")] = None,
    as_json: Json = False,
) -> None:
    """List the data sets: what is on disk, classes, images, sizes, licences."""
    from autometa.data.load import describe_datasets

    known = describe_datasets(data_root)
    if as_json:
        return print_json({"datasets": known})
    table = new_table("name", "title", "classes train/val/test", "images", "image", "on disk", "licence")
    for status in known:
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
    return print_table(table)


def spaces(
    name: Annotated[str | None, typer.Argument(help="A name or a TOML file; without it, all are listed.")] = None,
    as_json: Json = False,
) -> None:
    """Show and check search spaces."""
    from autometa.space.files import load_space, shipped_spaces

    if name is None:
        return _list_spaces([load_space(shipped) for shipped in shipped_spaces()], as_json)
    from autometa.trial.check import check_space

    space = load_space(name)
    check_space(space)
    if as_json:
        return print_json(_about(space) | {"parameters": space.parameters, "starts": len(space.start)})
    table = new_table("parameter", "may be", "when")
    for parameter in space:
        when = ", ".join(f"{k} = {' | '.join(map(str, v))}" for k, v in parameter.when.items())
        table.add_row(parameter.name, parameter.allowed(), when)
    print_table(table)
    print(
        f"{space.name} (version {space.version}): valid, {len(space.parameters)} parameters, {len(space.start)} starts"
    )
    return None


def _list_spaces(spaces: Sequence[SearchSpace], as_json: bool) -> None:
    if as_json:
        return print_json({"spaces": [_about(space) | {"parameters": len(space.parameters)} for space in spaces]})
    table = new_table("name", "version", "parameters", "description")
    for space in spaces:
        table.add_row(space.name, space.version, str(len(space.parameters)), space.description)
    return print_table(table)


def _about(space: SearchSpace) -> dict[str, Any]:
    return {"name": space.name, "version": space.version, "description": space.description}
