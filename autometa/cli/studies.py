"""`autometa studies`: past studies listed, shown, archived, imported and removed."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autometa.cli.as_json import Json, print_json
from autometa.cli.options import Storage
from autometa.home import OWN_STUDIES

if TYPE_CHECKING:
    from autometa.archives.columns import Columns
    from autometa.study.imports import Incoming

Opt = typer.Option
Arg = typer.Argument

app = typer.Typer(
    help="List, show, archive, import and remove past studies.", no_args_is_help=False, rich_markup_mode=None
)


class _Direction(StrEnum):
    maximize = "maximize"
    minimize = "minimize"


To = Annotated[Path, Opt("--to", help="Folder of archives.")]
Replace = Annotated[bool, Opt("--replace", help="Replace archives of the same name.")]


@app.callback(invoke_without_command=True)
def studies(context: typer.Context, storage: Storage = None, as_json: Json = False) -> None:
    """List archived studies, and those in the storage; or show, archive, import and remove them."""
    from autometa.errors import ConfigError

    if context.invoked_subcommand is None:
        return list_studies(storage, as_json)
    for option, given in (("--storage", storage), ("--json", as_json)):
        if given:
            raise ConfigError(f"{option}: put it behind `studies {context.invoked_subcommand}`")
    return None


@app.command("list", epilog="Example: autometa studies list --storage sqlite:///runs/autometa.db")
def list_studies(storage: Storage = None, as_json: Json = False) -> None:
    """List archived studies, and those in the storage."""
    from autometa.cli.tables import new_table, print_table
    from autometa.cli.words import percent
    from autometa.records import source_of
    from autometa.study.listing import archived_studies, stored_studies

    lines = [*archived_studies(), *stored_studies(storage)]
    if as_json:
        return print_json({"studies": lines})
    table = new_table("study", "data set", "task", "trials", "winner", "validation", "meta-test", "where")
    for line in lines:
        winner = "–" if line.winner is None else source_of(line.winner)
        winner = ", ".join([winner, *line.marks])
        accuracies = [percent(a) if a else "–" for a in (line.validation, line.test)]
        table.add_row(line.name, line.dataset, line.task, str(line.trials), winner, *accuracies, line.where)
    if lines:
        return print_table(table)
    return print("no studies yet; start one with: autometa search")


@app.command("show", epilog="Example: autometa studies show digits-5w1s --top 3")
def show(
    study: Annotated[str, Arg(metavar="STUDY", help="A name, as in `autometa studies`, or the folder of an archive.")],
    top: Annotated[int, Opt(min=1, help="How many of the best trials.")] = 5,
    storage: Annotated[str | None, Opt(help="Look into this Optuna storage, not among the archives.")] = None,
    as_json: Json = False,
) -> None:
    """Show what a past study is, and its best trials with their values by rung."""
    from autometa.cli.study_page import facts, page
    from autometa.study.find import find_study

    found = find_study(study, storage)
    if as_json:
        return print_json(facts(found, top))
    for line in page(found, top):
        print(line)
    return None


@app.command("archive", epilog="Example: autometa studies archive digits-5w1s")
def archive(
    study: Annotated[str, Arg(metavar="STUDY", help="Name of a study that autometa made.")],
    storage: Storage = None,
    to: To = OWN_STUDIES,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """Write an archive of a study as far as it has come, such as an interrupted search."""
    from autometa.hpo.storage import default_url
    from autometa.study.imports import check_free, from_search

    own = from_search(study, storage or default_url())
    check_free([own], to, replace=replace)
    folder = own.write(to)
    if as_json:
        return print_json({"archived": _facts(own, to)})
    print(f"archived {_counted(own)} in {folder}")
    return _next([own], to)


@app.command("import", epilog="Example: autometa studies import runs.csv --value loss --direction minimize --task task")
def import_(
    source: Annotated[
        str, Arg(metavar="SOURCE", help="Optuna storage URL, folder of archives, or table (.csv, .parquet).")
    ],
    study: Annotated[str | None, Opt(help="Only the study of this name. [default: all]")] = None,
    name: Annotated[str | None, Opt(help="What to call it here. [default: its own name, or the file's]")] = None,
    to: To = OWN_STUDIES,
    replace: Replace = False,
    value: Annotated[str | None, Opt(metavar="COLUMN", help="Table: what was measured.")] = None,
    direction: Annotated[_Direction | None, Opt(help="Table: whether greater values are better.")] = None,
    rung: Annotated[
        str | None, Opt(metavar="COLUMN", help="Table: epoch or step, if a trial has several rows.")
    ] = None,
    trial: Annotated[
        str | None, Opt(metavar="COLUMN", help="Table: which rows are one trial. [default: same parameters]")
    ] = None,
    task: Annotated[str | None, Opt(metavar="COLUMN", help="Table: one study for each of its values.")] = None,
    seconds: Annotated[str | None, Opt(metavar="COLUMN", help="Table: seconds of training so far.")] = None,
    half_width: Annotated[str | None, Opt(metavar="COLUMN", help="Table: half of the value's 95 % interval.")] = None,
    state: Annotated[str | None, Opt(metavar="COLUMN", help="Table: complete, pruned or fail.")] = None,
    params: Annotated[
        str | None, Opt(metavar="COLUMNS", help="Table: the parameters, as a,b,c. [default: every other column]")
    ] = None,
    rename: Annotated[
        list[str] | None, Opt(metavar="COLUMN=PARAMETER", help="Table: name of a parameter; repeatable.")
    ] = None,
    ignore: Annotated[list[str] | None, Opt(metavar="COLUMN", help="Table: no parameter; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Import studies from an Optuna storage, from other archives, or from a table of evaluations."""
    from autometa.cli.progress import study_progress
    from autometa.study.imports import check_free, read_source

    roles = {
        "rung": rung,
        "trial": trial,
        "task": task,
        "seconds": seconds,
        "half_width": half_width,
        "state": state,
    }
    columns = _columns(value, direction, roles, params, rename or [], ignore or [])
    with study_progress(quiet=as_json) as on_study:
        found = read_source(source, study=study, name=name, columns=columns, on_study=on_study)
        check_free(found.studies, to, replace=replace)
        for done, one in enumerate(found.studies, 1):
            one.write(to)
            on_study(done, len(found.studies))
    for reason in found.left_out:
        typer.echo(f"left out: {reason}", err=True)
    for hint in found.hints:
        typer.echo(f"hint: {hint}", err=True)
    if as_json:
        return print_json({"imported": [_facts(one, to) for one in found.studies], "left_out": found.left_out})
    if len(found.studies) == 1:
        print(f"imported {_counted(found.studies[0])} in {to / found.studies[0].name}")
    else:
        trials = sum(len(one.trials) for one in found.studies)
        print(f"imported {len(found.studies)} studies with {trials:,} trials in {to}")
    return _next(found.studies, to)


@app.command("remove", epilog="Example: autometa studies remove old-study")
def remove(
    studies: Annotated[list[str], Arg(metavar="STUDY...", help="Names of your own archives.")],
    where: Annotated[
        Path | None, Opt("--from", metavar="DIR", help="Folder of archives. [default: runs/studies]")
    ] = None,
    yes: Annotated[bool, Opt("--yes", "-y", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Remove your own archives; what is in a storage stays."""
    from autometa.archives import folders
    from autometa.study.find import own_archive

    chosen = [own_archive(name, where) for name in dict.fromkeys(studies)]
    names = ", ".join(map(str, chosen))
    removed = chosen if yes or _agreed(f"remove {names}?") else []
    for folder in removed:
        folders.remove(folder)
    if as_json:
        return print_json({"removed": removed})
    return print(f"removed {names}" if removed else "nothing removed")


def _agreed(question: str) -> bool:
    """Ask on stderr, so that a pipe of the output stays clean."""
    from autometa.errors import ConfigError

    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer:
        print(file=sys.stderr)
        raise ConfigError("nothing removed: nobody answered; add --yes to remove without asking")
    return answer.strip().lower() in ("y", "yes")


def _columns(
    value: str | None,
    direction: _Direction | None,
    roles: dict[str, str | None],
    params: str | None,
    rename: list[str],
    ignore: list[str],
) -> Columns | None:
    """The columns of a table, or None where nothing was said of any."""
    from autometa.errors import ConfigError

    if value is None and direction is None and not any([*roles.values(), params, rename, ignore]):
        return None
    from autometa.archives.columns import Columns

    if value is None:
        raise ConfigError("--value: say which column of the table was measured")
    if direction is None:
        raise ConfigError(f"--direction: say whether greater values of {value} are better: maximize or minimize")
    pairs = [pair.partition("=") for pair in rename]
    for pair, (column, _, parameter) in zip(rename, pairs, strict=True):
        if not column or not parameter:
            raise ConfigError(f"--rename {pair}: give COLUMN=PARAMETER")
    return Columns(
        value=value,
        direction=direction.value,
        params=[column.strip() for column in params.split(",")] if params else (),
        rename={column: parameter for column, _, parameter in pairs},
        ignore=ignore,
        **roles,
    )


def _facts(one: Incoming, to: Path) -> dict[str, Any]:
    """A study that was archived, for machines: its name, folder, and how many trials ended how."""
    return {"name": one.name, "folder": to / one.name, "trials": Counter(trial.state for trial in one.trials)}


def _counted(one: Incoming) -> str:
    from autometa.cli.study_page import states

    return f"{one.name}: {states([trial.state for trial in one.trials])}"


def _next(found: Sequence[Incoming], to: Path) -> None:
    is_usual = to == OWN_STUDIES
    first = found[0].name if is_usual else str(to / found[0].name)
    print(f"next: autometa studies show {first}" if len(found) == 1 or not is_usual else "next: autometa studies")
