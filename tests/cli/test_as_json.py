"""`--json`: every command that prints a result has it, and then stdout is one JSON object per line and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from autometa.archives import archive, foreign
from autometa.cli.app import app
from autometa.cli.as_json import print_json
from autometa.past import PastReport
from tests.archives.example_studies import LOSSES, STUDY, TRIALS
from tests.cli.test_cli import TINY, run
from tests.deployment.photos import write_photos

RECIPE = """
format = "autometa-recipe/1"
[[recipe]]
dataset = "digits"
validation_episodes = 10
episodes = { way = 2, shot = 1, query = 3 }
budget = { steps = 2, rungs = 1 }
[recipe.config]
learner = "prototypical"
conv = { width = 4, depth = 1 }
"""
# In an order in which each finds what those before have made; `studies` alone lists.
CASES = {
    "search": "search --dataset digits --space tiny.toml --trials 1 --budget 4",
    "datasets": "datasets",
    "spaces": "spaces tiny.toml",
    "export": "export digits-5w1s-tiny",
    "train": "train recipe.toml -o model",
    "evaluate": "evaluate model --episodes 5 --attack fgsm",
    "predict": "predict model --support support --query support/aster",
    "studies": "studies",
    "studies list": "studies list",
    "studies show": "studies show digits-5w1s-tiny",
    "studies archive": "studies archive digits-5w1s-tiny --to others",
    "studies import": "studies import others --to imported",
    "studies remove": "studies remove digits-5w1s-tiny --yes",
    "priors map": "priors map --dataset digits",
}
NO_RESULT = {"dashboard"}  # serves until it is ended


def commands() -> Iterator[tuple[str, Any]]:
    """All that can be called, by its words; a group only if it does something without a command."""
    for name, command in vars(typer.main.get_command(app))["commands"].items():
        below = vars(command).get("commands", {})
        if not below or any("--storage" in option.opts for option in command.params):
            yield name, command
        yield from ((f"{name} {inner}", leaf) for inner, leaf in below.items())


def test_every_command_that_prints_a_result_has_it() -> None:
    found = {name: any("--json" in option.opts for option in command.params) for name, command in commands()}
    assert {name for name, has_it in found.items() if not has_it} == NO_RESULT
    assert set(CASES) == set(found) - NO_RESULT


def test_stdout_is_json_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    write_photos(tmp_path / "support", {"aster": 2, "basil": 2}, size=8)
    said: dict[str, list[dict[str, Any]]] = {}
    for name, arguments in CASES.items():
        code, out, err = run(capsys, monkeypatch, *arguments.split(), "--json")
        assert code == 0, (name, err)
        said[name] = [json.loads(line) for line in out.splitlines()]
        assert all(isinstance(fact, dict) for fact in said[name]), name
    assert all(len(facts) == 1 for name, facts in said.items() if name != "search")
    assert said["search"][-1]["event"] == "SearchEnded"
    (exported,), (shown,), (evaluated,) = said["export"], said["studies show"], said["evaluate"]
    assert {"trial", "baseline"} & exported["recipes"][0]["provenance"].keys()  # four steps may not beat a baseline
    assert shown["best"][0]["number"] == 0
    assert Path(exported["file"]).is_file()
    assert shown["trials"] == {"complete": 1}
    assert evaluated["robust"]["mean"] <= evaluated["mean"]
    assert {line["name"] for line in said["studies"][0]["studies"]} >= {"digits-5w1s-tiny"}
    assert said["studies"] == said["studies list"]
    assert said["studies import"][0]["imported"][0]["folder"] == "imported/digits-5w1s-tiny"
    assert said["studies remove"] == [{"removed": ["runs/studies/digits-5w1s-tiny"]}]
    (placed,) = said["priors map"]
    assert [row["distance"] for row in placed["nearest"]] == sorted(row["distance"] for row in placed["nearest"])
    assert Path(placed["map"]).is_file()
    assert said["spaces"][0]["parameters"][1]["choices"] == [4, 8]


def test_studies_of_other_programs_are_shown_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    foreign.write(Path("studies"), LOSSES)
    archive.write(Path("studies"), STUDY, TRIALS)
    code, out, _ = run(capsys, monkeypatch, "studies", "show", LOSSES.name, "--json")
    assert code == 0
    assert json.loads(out)["study"] is None
    code, out, err = run(capsys, monkeypatch, "studies", "--json", "list")
    assert (code, out, err) == (2, "", "error: --json: put it behind `studies list`\n")


def test_what_json_does_not_have_becomes_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"report": PastReport(2, 0.75), "folder": Path("a/b"), "best": (math.inf, True)})
    report = {"rung": 2, "value": 0.75, "seconds": None, "half_width": None}
    assert json.loads(capsys.readouterr().out) == {"report": report, "folder": "a/b", "best": [None, True]}
