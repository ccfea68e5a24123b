"""Options that no longer change anything are read wherever earlier versions wrote them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from autometa.records import Scalar
from autometa.space.files import load_space
from autometa.trial.check import check_space
from autometa.trial.evaluate import evaluate_checkpoint
from autometa.trial.train import train

RECIPE = """
format = "autometa-recipe/1"
[[recipe]]
dataset = "digits"
seed = 5
validation_episodes = 12
[recipe.episodes]
way = 3
shot = 1
query = 2
[recipe.budget]
steps = 4
rungs = 2
[recipe.config]
learner = "prototypical"
backbone = "conv"
"conv.width" = 4
"""


def trained(folder: Path, cuda_graph: str) -> list[Scalar]:
    file = folder.with_suffix(".toml")
    file.write_text(RECIPE + cuda_graph)
    record = train(file, folder)
    assert record.state == "complete"
    return [report.accuracy.mean for report in record.curve]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("cuda_graph = true\n", ["cuda_graph = true is ignored: training steps are no longer recorded as CUDA graphs"]),
        ("cuda_graph = false\n", []),
    ],
)
def test_a_recipe_trains_as_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, written: str, told: list[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        found = trained(tmp_path / "with", written)
    assert [record.getMessage() for record in caplog.records if "cuda_graph" in record.getMessage()] == told
    assert found == trained(tmp_path / "without", "")
    assert evaluate_checkpoint(tmp_path / "with", episodes=7) == evaluate_checkpoint(tmp_path / "without", episodes=7)


def test_a_space_may_still_name_it(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('name = "own"\n[parameters.cuda_graph]\nchoices = [false, true]\n')
    check_space(load_space(file))
