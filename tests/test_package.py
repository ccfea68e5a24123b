"""The package as a whole: its public names, its wheel, and what the README promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import autometa

ROOT = Path(__file__).resolve().parents[1]


def test_importing_autometa_does_no_work() -> None:
    code = "import sys, autometa; print(sorted({'torch', 'ray', 'optuna', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there() -> None:
    for name in autometa.__all__:
        assert getattr(autometa, name) is not None


def test_the_readme_names_only_commands_and_options_that_exist() -> None:
    from autometa.cli.app import app

    shown = {command.name for command in app.registered_commands}
    readme = (ROOT / "README.md").read_text()
    used = set(re.findall(r"(?m)^(?:\$ |    )?autometa ([a-z]+)", readme))
    assert used <= shown
    assert {"search", "export", "train", "evaluate", "dashboard", "datasets", "spaces", "studies"} <= used
    help_text = "".join(
        subprocess.run([sys.executable, "-m", "autometa", c, "--help"], capture_output=True, text=True).stdout
        for c in sorted(used)
    )
    for option in set(re.findall(r"(?<!pip )(--[a-z][a-z-]+)", readme)):
        assert option in help_text, option
