"""Recipes: one configuration with all that is needed to train it again, as a TOML or JSON file.

A recipe carries its provenance, and what its data is rather than where: the only path of the machine it was made
on is that of an image folder, in whose place another can be named. It does not know how a search found it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import Field, field_validator

from autometa.aliases import renamed
from autometa.data import catalog
from autometa.errors import ConfigError
from autometa.learning.open_ended import with_known_end
from autometa.parsing import parse_json, parse_toml
from autometa.records import LARGEST_SEED, Budget, DataIdentity, EpisodeSpec, Record, Scalar, TrialConfig, checked
from autometa.trial.job import DatasetRef, Job

FORMAT = "autometa-recipe/1"


class Recipe(Record):
    """One candidate, ready to train. `provenance` is for people: nothing is computed from it.

    The identities say which data it may be trained on, wherever that lies; a recipe written by hand has none.
    Images of `pretrain_dataset` have the size of the others. With `skip_unreadable` the search that found it left
    out files that are no images. With `all_classes` it tells all classes of its data apart, on other images of them.
    """

    dataset: str
    image_size: int | None = Field(None, ge=1)
    dataset_identity: DataIdentity | None = None
    pretrain_dataset: str | None = None
    pretrain_identity: DataIdentity | None = None
    skip_unreadable: bool = False
    all_classes: bool = False
    episodes: EpisodeSpec
    budget: Budget
    seed: int = Field(0, ge=0, le=LARGEST_SEED)
    validation_episodes: int = Field(200, ge=2)
    validation_seed: int = Field(0, ge=0, le=LARGEST_SEED)
    config: dict[str, Scalar]
    provenance: dict[str, Any] = {}

    @field_validator("config")
    @classmethod
    def _has_names_of_now(cls, config: dict[str, Scalar]) -> dict[str, Scalar]:
        return renamed(config)

    @classmethod
    def of(cls, job: Job, *, steps: int) -> Recipe:
        """The recipe of a model that was trained by a job, and took so many outer steps."""
        is_open = job.budget.open
        return cls(
            dataset=job.dataset.name,
            image_size=job.dataset.image_size,
            dataset_identity=_told(job.dataset),
            pretrain_dataset=job.pretrain.name if job.pretrain else None,
            pretrain_identity=_told(job.pretrain) if job.pretrain else None,
            skip_unreadable=job.dataset.skip_unreadable,
            all_classes=job.dataset.all_classes,
            episodes=job.episodes,
            budget=Budget(steps=max(1, steps)) if is_open else job.budget,
            seed=job.seed,
            validation_episodes=job.validation_episodes,
            validation_seed=job.validation_seed,
            config=with_known_end(job.config.values) if is_open else job.config.values,
        )

    def job(self, folder: Path, *, data_root: str | None = None, use_gpu: bool | None = None) -> Job:
        """The job of training it into `folder`."""
        return Job(
            config=TrialConfig(values=self.config),
            dataset=self._ref(self.dataset, data_root, self.dataset_identity),
            pretrain=self._ref(self.pretrain_dataset, data_root, self.pretrain_identity)
            if self.pretrain_dataset
            else None,
            episodes=self.episodes,
            budget=self.budget,
            seed=self.seed,
            folder=str(folder),
            validation_episodes=self.validation_episodes,
            validation_seed=self.validation_seed,
            use_gpu=use_gpu,
        )

    def _ref(self, name: str, root: str | None, identity: DataIdentity | None) -> DatasetRef:
        return DatasetRef(
            name=catalog.portable(name),
            root=root,
            image_size=self.image_size,
            skip_unreadable=self.skip_unreadable,
            identity=identity,
            all_classes=self.all_classes,
        )


def _told(data: DatasetRef) -> DataIdentity | None:
    """The identity for people to read: the name of a data set of the catalog says its classes."""
    if data.identity is None or catalog.is_folder(data.name):
        return data.identity
    return data.identity.model_copy(update={"classes": {}})


def write_recipes(file: Path, recipes: Sequence[Recipe], kind: Literal["toml", "json"]) -> None:
    """Write recipes, the best first; an existing file is replaced in one step."""
    data = {"format": FORMAT, "recipe": [_nested(recipe) for recipe in recipes]}
    text = tomli_w.dumps(data) if kind == "toml" else json.dumps(data, indent=2) + "\n"
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from None


def read_recipes(file: Path) -> list[Recipe]:
    """Read a recipe file; raises `ConfigError` naming the file, the field and what is wrong."""
    data = _parsed(file)
    if data.get("format") != FORMAT:
        raise ConfigError(f"{file}: not a recipe: `format` is {data.get('format')!r}, not {FORMAT!r}")
    entries = data.get("recipe")
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{file}: no [[recipe]] in it")
    return [_recipe(entry, f"{file}: recipe {number}") for number, entry in enumerate(entries, 1)]


def _parsed(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        data = parse_json(text) if file.suffix == ".json" else parse_toml(text)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{file}: not valid {file.suffix.lstrip('.') or 'TOML'}: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: not a recipe: a table is expected at the top")
    return data


def _recipe(entry: Any, where: str) -> Recipe:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: a table is expected")
    config = entry.get("config", {})
    flat = _flat(config, f"{where}: config") if isinstance(config, dict) else config
    return checked(Recipe, {**entry, "config": flat}, where=where)


def _nested(recipe: Recipe) -> dict[str, Any]:
    """A recipe for people to read: `conv.width` stands as `width` in a table `conv`."""
    data = recipe.model_dump(mode="json", exclude_none=True)
    config: dict[str, Any] = {}
    for name, value in recipe.config.items():
        *tables, key = name.split(".")
        place = config
        for table in tables:
            place = place.setdefault(table, {})
        place[key] = value
    return {**data, "config": config}


def _flat(config: dict[str, Any], where: str) -> dict[str, Any]:
    """`conv.width` of what stands as that or as `width` in a table `conv`; raises where it stands as both."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        inside = _flat(value, where) if isinstance(value, dict) else {}
        found = (
            {f"{name}.{option}": one for option, one in inside.items()} if isinstance(value, dict) else {name: value}
        )
        for twice in flat.keys() & found.keys():
            raise ConfigError(f"{where}: {twice} is given twice: once as a whole name, once in a table")
        flat |= found
    return flat
