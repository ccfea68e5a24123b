"""One record of settings: the options of `autometa search` and the arguments of `autometa.search` are its fields."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

import autometa
from autometa.cli.app import app
from autometa.cli.options import options_from
from autometa.errors import ConfigError
from autometa.records import Budget
from autometa.study.documented import documented
from autometa.study.search_settings import SearchSettings

# What the command does beside a search, and what only Python can give one.
NO_SETTINGS = {"as_json", "prior_report", "seeds", "help"}
IN_PYTHON_ONLY = ["cluster", "runs", "archives", "validation_episodes", "on_event", "started"]
DEFAULTS = {f.name: f.default for f in dataclasses.fields(SearchSettings)}


def options() -> dict[str, Any]:
    command = get_command(app).commands["search"]  # type: ignore[attr-defined]
    return {option.name: option for option in command.params if option.name not in NO_SETTINGS}


def test_the_options_of_the_command_are_the_fields_with_their_defaults_and_documentation() -> None:
    found = options()
    assert list(found) == list(DEFAULTS)
    assert {name: option.default for name, option in found.items()} == DEFAULTS
    for name, (kind, about) in documented(SearchSettings).items():
        assert found[name].opts == ["--" + name.replace("_", "-")]
        assert found[name].secondary_opts == (["--no-external"] if name == "external" else [])
        assert found[name].is_flag == (kind in (bool, bool | None))
        assert about.help in found[name].help


def test_every_field_is_documented_and_none_says_what_it_stands_for() -> None:
    about = documented(SearchSettings)
    assert list(about) == list(DEFAULTS)
    unsaid = {name for name, (_, one) in about.items() if DEFAULTS[name] is None and "[default: " not in one.help}
    assert unsaid == {"pretrain_dataset"}


def test_the_arguments_of_the_function_are_the_fields_with_their_defaults_and_documentation() -> None:
    arguments = inspect.signature(autometa.search).parameters
    assert list(arguments) == [*DEFAULTS, *IN_PYTHON_ONLY]
    assert {name: arguments[name].default for name in DEFAULTS} == DEFAULTS
    assert [a.kind for a in arguments.values()].count(inspect.Parameter.POSITIONAL_OR_KEYWORD) == 1
    text = inspect.getdoc(autometa.search)
    assert text is not None
    for name, (_, about) in documented(SearchSettings).items():
        assert f"{name}: {about.help}" in text
    for name in IN_PYTHON_ONLY:
        assert f"{name}: " in text


def given(*words: str) -> SearchSettings:
    """The settings that a command gets from these words."""
    got: list[SearchSettings] = []

    @options_from(SearchSettings)
    def command(settings: SearchSettings) -> None:
        got.append(settings)

    program = typer.Typer()
    program.command()(command)
    done = CliRunner().invoke(program, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return got[0]


def test_words_of_the_command_line_become_the_settings_that_python_gives() -> None:
    assert given() == SearchSettings()
    words = "--dataset omniglot --space my.toml --way 7 --budget 90s --time-budget 15m --gpus-per-trial 0.5"
    words += " --data-root there --skip-unreadable --prior studies --confirm-seeds 3"
    assert given(*words.split()) == SearchSettings(
        "omniglot",
        space="my.toml",
        way=7,
        budget=Budget(seconds=90),
        time_budget=900,
        gpus_per_trial=0.5,
        data_root=Path("there"),
        skip_unreadable=True,
        prior=Path("studies"),
        confirm_seeds=3,
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--trials 0", "--trials 0: at least 1 is needed, and 1,000,000 at most"),
        ("--trials 1000001", "--trials 1000001: at least 1 is needed, and 1,000,000 at most"),
        ("--seed 4294967296", "--seed 4294967296: at least 0"),
        ("--image-size 7", "--image-size 7: at least 8 is needed"),
        ("--gpus-per-trial -0.5", "--gpus-per-trial -0.5: at least 0 is needed"),
        ("--gpus-per-trial nan", "--gpus-per-trial nan: at least 0 is needed"),
        ("--confirm-seeds 1", "one seed has no spread"),
        ("--confirm-seeds -1", "--confirm-seeds -1: at least 0 is needed"),
        ("--vectorise 0", "--vectorise 0: at least 1 is needed"),
    ],
)
def test_a_number_out_of_range_names_its_option_and_what_is_allowed(words: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        given(*words.split())


def test_a_setting_that_is_not_there_is_no_argument() -> None:
    with pytest.raises(TypeError, match="trails"):
        autometa.search(trails=3)  # type: ignore[call-arg]


def test_a_password_in_the_storage_is_not_shown() -> None:
    assert "secret" not in repr(SearchSettings(storage="postgresql://me:secret@there/x"))
