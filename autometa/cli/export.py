"""`autometa export`: recipes of a study or a model, or a model as a file that runs without autometa."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from autometa.cli.as_json import Json, print_json
from autometa.cli.options import DataRoot, Dataset, Storage

if TYPE_CHECKING:
    from autometa.trial.recipe import Recipe

Opt = typer.Option
_LONGEST_SUMMARY = 60
_ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}


class _Kind(StrEnum):
    toml = "toml"
    json = "json"


class _Program(StrEnum):
    onnx = "onnx"
    torch = "torch"


def export(
    study: Annotated[str, typer.Argument(help="Name of a study, as in `autometa studies`, or a model's folder.")],
    top: Annotated[
        int | None, Opt(min=1, help="How many of the best. [default: 1; of a model, one for each member]")
    ] = None,
    kind: Annotated[_Kind | None, Opt("--format", help="[default: by the file's ending, else toml]")] = None,
    output: Annotated[Path | None, Opt("--output", "-o", help="File to write. [default: STUDY.toml]")] = None,
    to: Annotated[
        _Program | None,
        Opt(help="Write a model itself, which then runs without autometa: as ONNX or a torch.export program."),
    ] = None,
    support: Annotated[
        Path | None, Opt(metavar="DIR", help="With --to: labelled images, one folder per class; the file names these.")
    ] = None,
    storage: Storage = None,
    data_root: DataRoot = None,
    dataset: Dataset = None,
    as_json: Json = False,
) -> None:
    """Write the best configurations of a study, or those of a model, as recipes; with --to, a model itself."""
    if to is not None:
        _refuse(to, {"--top": top, "--format": kind, "--storage": storage})
        return _export_model(Path(study), output, to, support, dataset, data_root, as_json)
    _refuse(None, {"--support": support, "--data-root": data_root, "--dataset": dataset})
    from autometa.archives.folders import safe_name
    from autometa.cli.words import marked
    from autometa.trial.measured import models_in
    from autometa.trial.model_files import is_model, name_of
    from autometa.trial.model_recipes import recipes_of
    from autometa.trial.recipe import write_recipes

    model = models_in(Path(study))[0]
    recipes = recipes_of(model)[:top] if is_model(model) else _best_of_study(study, top or 1, storage)
    is_json = kind is _Kind.json if kind else output is not None and output.suffix == ".json"
    chosen: Literal["toml", "json"] = "json" if is_json else "toml"
    file = output or Path(f"{name_of(Path(study)) if is_model(model) else safe_name(study)}.{chosen}")
    write_recipes(file, recipes, chosen)
    if as_json:
        return print_json({"study": study, "file": file, "recipes": recipes})
    named = ", ".join(_source(recipe) + marked(recipe.config, recipe.provenance) for recipe in recipes)
    print(f"wrote {file}: {named} of {study}")
    return print(f"next: autometa train {file}")


def _best_of_study(study: str, top: int, storage: str | None) -> list[Recipe]:
    from autometa.hpo.storage import damage_told, default_url, load_study, open_storage
    from autometa.study.export import best_recipes

    url = storage or default_url()
    with damage_told(url):
        return best_recipes(load_study(study, open_storage(url, create=False)), top)


def _source(recipe: Recipe) -> str:
    """What a recipe comes from, in a search; of others what it is."""
    from autometa.cli.words import summary
    from autometa.records import source_of

    known = recipe.provenance.get("trial", recipe.provenance.get("baseline"))
    return summary(recipe.config, _LONGEST_SUMMARY) if known is None else source_of(known)


def _refuse(to: _Program | None, options: dict[str, object]) -> None:
    """Refuse options that mean nothing here."""
    from autometa.errors import ConfigError

    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(f"{given[0]}: only {'without' if to else 'with'} --to")


def _export_model(
    model: Path,
    output: Path | None,
    to: _Program,
    support: Path | None,
    dataset: str | None,
    data_root: Path | None,
    as_json: bool,
) -> None:
    from autometa.deployment.export import export_model
    from autometa.deployment.programs import Kind
    from autometa.trial.model_files import name_of

    file = output or Path(f"{name_of(model)}{_ENDINGS[to]}")
    written = export_model(model, file, Kind(to), support=support, dataset=dataset, data_root=data_root)
    if as_json:
        return print_json(
            {"model": model, "files": [{"file": place, **said.model_dump()} for place, said in written.items()]}
        )
    for place, said in written.items():
        takes = ", ".join(f"{name} {_shape(axes)}" for name, axes in said.inputs.items())
        gives = ", ".join(f"{name} {_shape(axes)}" for name, axes in said.output.items())
        print(f"wrote {place}: {said.part}, {takes} to {gives}")
        print(f"  as the model to {said.difference:.1g} on {said.images} images; facts in {place.with_suffix('.json')}")
    return None


def _shape(axes: list[str | int]) -> str:
    return f"[{', '.join(map(str, axes))}]"
