"""`autometa predict`: images get the names of classes that are known by a few labelled images each."""

from __future__ import annotations

import csv
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autometa.cli.as_json import Json, print_json

if TYPE_CHECKING:
    from autometa.deployment.calibration import Calibration
    from autometa.deployment.predictor import Predictor

Opt = typer.Option


@dataclass(frozen=True)
class Named:
    """One query image. `name` is its class, or that it is of none; `best` is the likeliest class in any case."""

    file: Path
    name: str
    best: str
    probability: float
    next_best: str
    next_probability: float


def predict(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model, such as runs/STUDY/model.")],
    more: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILES]...", help="More query images, as --query *.jpg gives.")
    ] = None,
    *,
    support: Annotated[Path, Opt(metavar="DIR", help="Labelled images: one folder per class.")],
    query: Annotated[list[Path], Opt(metavar="DIR|FILE", help="Images to name, or folders of them.")],
    reject_rate: Annotated[
        float | None,
        Opt(help="Say 'none of these' as often as rejects this part of the images of known classes, such as 0.05."),
    ] = None,
    copy_to: Annotated[Path | None, Opt(metavar="DIR", help="Copy each image into DIR/CLASS as well.")] = None,
    skip_unreadable: Annotated[bool, Opt("--skip-unreadable", help="Leave out files that are no images.")] = False,
    data_root: Annotated[Path | None, Opt(help="Where archives lie. [default: $AUTOMETA_DATA]")] = None,
    dataset: Annotated[
        str | None, Opt(metavar="DIR", help="Where the image folder of the search is now, if it was moved.")
    ] = None,
    gpu: Annotated[bool | None, Opt("--gpu/--cpu", help="[default: a GPU where there is one]")] = None,
    as_csv: Annotated[bool, Opt("--csv", help="The result as CSV.")] = False,
    as_json: Json = False,
) -> None:
    """Name images by a few labelled ones per class; the classes may be new, and nothing is trained."""
    from autometa.cli.progress import image_progress
    from autometa.deployment.pictures import queries_in
    from autometa.deployment.predictor import Predictor
    from autometa.errors import ConfigError

    if as_csv and as_json:
        raise ConfigError("--csv and --json: give one of them")
    files = queries_in([*query, *(more or ())])
    _check_copies(copy_to, support, query)
    how: dict[str, Any] = {"reject_rate": reject_rate, "skip_unreadable": skip_unreadable, "use_gpu": gpu}
    predictor = Predictor(model, dataset=dataset, data_root=data_root, **how).fit(support)
    unreadable: list[str] = []
    with image_progress(len(files), quiet=as_json) as on_images:
        named = []
        for answers in _answers(predictor, files, unreadable):
            named += answers
            on_images(len(named) + len(unreadable))
    if not named:
        raise ConfigError("none of the query images can be read")
    if copy_to:
        _copy(named, copy_to)
    _note(predictor, unreadable)
    if as_json:
        print_json(_facts(predictor, named, unreadable))
    elif as_csv:
        _print_csv(named)
    else:
        _print_table(named)


def _answers(predictor: Predictor, files: Sequence[Path], unreadable: list[str]) -> Iterator[list[Named]]:
    for part in predictor.answers(files):
        unreadable += part.unreadable
        yield [
            _named(predictor, files[place], of_image, rejected)
            for place, of_image, rejected in zip(part.places, part.probabilities, part.rejected, strict=True)
        ]


def _named(predictor: Predictor, file: Path, probabilities: Any, rejected: bool) -> Named:
    first, second = (int(index) for index in probabilities.argsort(kind="stable")[::-1][:2])
    best, next_best = (str(predictor.classes_[index]) for index in (first, second))
    name = str(predictor.none_label) if rejected else best
    return Named(file, name, best, float(probabilities[first]), next_best, float(probabilities[second]))


def _check_copies(copy_to: Path | None, support: Path, query: Sequence[Path]) -> None:
    """Refuse to write where images are read: the next command would find the copies there."""
    from autometa.errors import ConfigError

    for place in [support, *query] if copy_to else []:
        assert copy_to is not None
        if place.is_dir() and copy_to.resolve().is_relative_to(place.resolve()):
            raise ConfigError(f"--copy-to {copy_to}: it is inside {place}; choose another folder")


def _copy(named: Sequence[Named], to: Path) -> None:
    """Copy each file into the folder of its class; nothing that is there is written over."""
    for one in named:
        folder = to / one.name
        folder.mkdir(parents=True, exist_ok=True)
        place, number = folder / one.file.name, 2
        while place.exists() and place.read_bytes() != one.file.read_bytes():
            place, number = folder / f"{one.file.stem}-{number}{one.file.suffix}", number + 1
        if not place.exists():
            shutil.copyfile(one.file, place)


def _print_table(named: Sequence[Named]) -> None:
    from autometa.cli.tables import new_table, print_table
    from autometa.data.image_folder import shown

    table = new_table("image", "class", "probability", "next best")
    for one in named:
        likelier = f"{one.best} {_percent(one.probability)}, " if one.name != one.best else ""
        sure = _percent(one.probability) if one.name == one.best else ""
        next_best = f"{likelier}{one.next_best} {_percent(one.next_probability)}"
        table.add_row(shown(str(one.file)), one.name, sure, next_best)
    print_table(table)


def _print_csv(named: Sequence[Named]) -> None:
    from autometa.data.image_folder import shown

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["image", "class", "likeliest", "probability", "next_best", "next_probability"])
    for one in named:
        numbers = f"{one.probability:.4f}", f"{one.next_probability:.4f}"
        writer.writerow([shown(str(one.file)), one.name, one.best, numbers[0], one.next_best, numbers[1]])


def _facts(predictor: Predictor, named: Sequence[Named], unreadable: Sequence[str]) -> dict[str, Any]:
    from autometa.data.image_folder import shown

    images = [
        {
            "image": shown(str(one.file)),
            "class": one.name,
            "likeliest": one.best,
            "probability": one.probability,
            "next_best": one.next_best,
            "next_probability": one.next_probability,
        }
        for one in named
    ]
    shots = {str(name): int(shot) for name, shot in zip(predictor.classes_, predictor.shots_, strict=True)}
    return {
        "model": predictor.model,
        "classes": shots,
        "calibration": predictor.calibration_,
        "images": images,
        "unreadable": [*predictor.unreadable_, *unreadable],
    }


def _note(predictor: Predictor, unreadable: Sequence[str]) -> None:
    """What a reader of the result has to know, on stderr."""
    left_out = [*predictor.unreadable_, *unreadable]
    lines = [f"left out: {reason}" for reason in left_out]
    if predictor.trained_.learner.transductive:
        lines.append("warning: this model is transductive: what it says of an image depends on the other query images")
    found = predictor.calibration_
    lines += _worth(found) if found else [f"warning: probabilities are not calibrated: {predictor.trained_.missing}"]
    print(*lines, sep="\n", file=sys.stderr)


def _worth(found: Calibration) -> list[str]:
    from autometa.cli.words import for_new_classes

    shape = found.shape
    least, most = min(shape.shots), max(shape.shots)
    labelled = f"{least}" if least == most else f"{least} to {most}"
    lines = [
        f"probabilities are fitted on {shape.episodes} validation tasks of {shape.way} classes, {labelled} labelled "
        f"images each: {for_new_classes(found.accuracy)} right there, calibration error {found.error:.2f}"
    ]
    if found.rejection:
        part, rate = found.rejection.recognised[found.rejection.score], found.rejection.rate
        lines.append(
            f"'none of these' is said to {_percent(rate)} of their images, and to {_percent(part)} of those of "
            "other classes"
        )
    return lines


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %"
