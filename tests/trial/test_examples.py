"""The recipes in `examples/` are read, mean something, and fit the images they are for."""

from __future__ import annotations

from pathlib import Path

import pytest

from autometa.data.catalog import source
from autometa.records import TrialConfig
from autometa.trial import build
from autometa.trial.recipe import read_recipes

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.toml"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_can_be_built(file: Path) -> None:
    (recipe,) = read_recipes(file)
    about = source(recipe.dataset)
    shape = (about.channels, about.image_size, about.image_size)
    candidate = build.candidate(TrialConfig(values=recipe.config), where=file.name)
    learner = candidate.build(image_shape=shape, way=recipe.episodes.way, train_classes=about.classes["train"])
    assert not learner.transductive
    assert file.stem.startswith(f"{recipe.dataset}-{recipe.config['learner']}-{recipe.config['backbone']}")


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 6
