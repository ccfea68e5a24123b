"""`autometa priors`: what past studies say about a data set before it is searched."""

from __future__ import annotations

import os
import sys
import webbrowser
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autometa.cli.as_json import Json, print_json

if TYPE_CHECKING:
    from autometa.past import PastStudy

Opt = typer.Option

app = typer.Typer(help="What past studies say about a data set.", rich_markup_mode=None)

_DIFFERENCES = 3
_NOTABLE = 0.5


@app.callback(invoke_without_command=True)
def priors(context: typer.Context) -> None:
    """What past studies say about a data set."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("map", epilog="Example: autometa priors map --dataset digits --shot 5")
def show_map(
    dataset: Annotated[str, Opt(help="A name from `autometa datasets`, or a folder of images.")],
    way: Annotated[int | None, Opt(min=2, help="Classes an episode. [default: the data set's]")] = None,
    shot: Annotated[int | None, Opt(min=1, help="Labelled images a class. [default: the data set's]")] = None,
    top: Annotated[int, Opt(min=1, help="How many of the nearest studies.")] = 10,
    output: Annotated[Path | None, Opt("--output", "-o", help="Page. [default: runs/map-DATASET.html]")] = None,
    open_page: Annotated[bool, Opt("--open/--no-open", help="Open the page in a browser.")] = True,
    data_root: Annotated[Path | None, Opt(help="Where archives lie. [default: $AUTOMETA_DATA]")] = None,
    skip_unreadable: Annotated[
        bool, Opt("--skip-unreadable", help="Leave out files of a folder that are no images.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show where a data set lies among those of past studies: the nearest, what differs, and a map."""
    from autometa.archives.read import all_past_studies
    from autometa.data import catalog
    from autometa.data.load import load_dataset
    from autometa.records import EpisodeSpec
    from autometa.tasks.features import features
    from autometa.tasks.similarity import coordinates

    usual_way, usual_shot, _ = catalog.default_episodes(dataset)
    spec = EpisodeSpec(way=way or usual_way, shot=shot or usual_shot)
    past = all_past_studies()
    data = load_dataset(dataset, data_root=data_root, skip_unreadable=skip_unreadable)
    target = coordinates(features(data), spec)
    known = [study for study in past if coordinates(study.features)]
    nearest = _nearest(target, known, top) if known else []
    file = output or Path("runs") / f"map-{data.name}.html"
    if len(known) >= 2:
        _write_map(file, f"{data.name} {spec}", target, known)
    if as_json:
        page = file if len(known) >= 2 else None
        return print_json({"dataset": data.name, "episodes": spec, "nearest": nearest, "map": page})
    if known:
        _print_nearest(nearest)
    if len(known) < 2:
        count = f"one of {len(past)} past studies has" if known else f"none of {len(past)} past studies has"
        return print(f"{count} features of its data set, and a map needs two; make one with: autometa search")
    print(f"map in {file}")
    given = {"--way": way, "--shot": shot, "--data-root": data_root}
    options = "".join(f" {option} {value}" for option, value in given.items() if value is not None)
    options += " --skip-unreadable" if skip_unreadable else ""
    print(f"next: autometa search --dataset {dataset}{options}")
    if open_page and sys.stdout.isatty() and _has_display():
        webbrowser.open(file.resolve().as_uri())
    return None


def _nearest(target: Mapping[str, float], known: Sequence[PastStudy], top: int) -> list[dict[str, Any]]:
    """The nearest studies, each with its distance and the most notable differences in words."""
    from autometa.tasks import similarity

    places = {study.name: similarity.coordinates_of(study) for study in known}
    fitted = similarity.scales([target, *places.values()])
    far = similarity.distances(target, known)
    rows = []
    for study in sorted(known, key=lambda s: far[s.name])[:top]:
        different = similarity.differences(target, places[study.name], fitted)
        words = [str(d) for d in different[:_DIFFERENCES] if d.notable >= _NOTABLE]
        own = {"study": study.name, "dataset": study.dataset or None, "episodes": study.episodes}
        rows.append(own | {"distance": far[study.name], "differences": words})
    return rows


def _print_nearest(nearest: Sequence[Mapping[str, Any]]) -> None:
    from autometa.cli.tables import new_table, print_table

    table = new_table("study", "data set", "task", "distance", "there, most of all")
    for row in nearest:
        words = ", ".join(row["differences"]) or "nothing notable"
        task = str(row["episodes"] or "–")
        table.add_row(row["study"], row["dataset"] or "–", task, f"{row['distance']:.2f}", words)
    print_table(table)


def _write_map(file: Path, name: str, target: Mapping[str, float], known: Sequence[PastStudy]) -> None:
    from autometa.report.data_map import data_map, figure
    from autometa.report.page import write_page

    write_page(file, f"{name} among past studies", figure(data_map(name, target, known)))


def _has_display() -> bool:
    """Whether a browser would have a window; a text browser would take the terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
