"""The package as a whole: its public names, its wheel, and what the README promises."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import autometa

ROOT = Path(__file__).resolve().parents[1]


def test_importing_autometa_does_no_work() -> None:
    code = "import sys, autometa; print(sorted({'torch', 'ray', 'optuna', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_is_there_and_known_to_type_checkers() -> None:
    tree = ast.parse(Path(autometa.__file__).read_text(encoding="utf-8"))
    (static,) = (node for node in tree.body if isinstance(node, ast.If))
    known: dict[str, object] = {"__version__": autometa.__version__}
    exec(compile(ast.Module(static.body, []), autometa.__file__, "exec"), known)
    for name in autometa.__all__:
        assert getattr(autometa, name) is known[name], name


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_what_travels_with_autometa_is_in_the_wheel_and_in_the_source_archive(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("hatchling", reason="hatchling builds both, and is not installed")
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (file,) = tmp_path.iterdir()
    if kind == "wheel":
        with zipfile.ZipFile(file) as opened:
            names, top = set(opened.namelist()), "autometa/_shipped/"
    else:
        with tarfile.open(file) as unpacked:
            names, top = {name.partition("/")[2] for name in unpacked.getnames()}, ""
    data = [
        f"autometa/data/embedded/omniglot/{name}" for name in ("alphabets.txt", "drawings.xz", "LICENSE", "README.md")
    ]
    shipped = [f"{top}studies/digits-5w1s/study.toml", f"{top}search_spaces/few_shot.toml"]
    assert {*data, *shipped, "autometa/data/splits/omniglot_vinyals.json"} <= names
    assert not [name for name in names if name.startswith("runs/")]
    assert file.stat().st_size < 5e6


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_first_command_of_the_readme_changes_nothing_that_git_tracks(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in ("autometa", "search_spaces", "studies"):
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".gitignore", checkout)
    git = ["git", "-C", str(checkout), "-c", "user.name=t", "-c", "user.email=t@localhost"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *words], check=True)
    command = [sys.executable, "-m", "autometa", "search", "--trials", "1", "--budget", "9", "--workers", "1"]
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (checkout / "runs" / "studies" / "omniglot-5w1s" / "study.toml").is_file()
    status = subprocess.run([*git, "status", "--porcelain"], check=True, capture_output=True, text=True)
    assert status.stdout == ""


def test_the_readme_names_only_commands_and_options_that_exist() -> None:
    from autometa.cli.app import app

    groups = {group.name: group.typer_instance for group in app.registered_groups}
    shown = {command.name for command in app.registered_commands} | set(groups)
    readme = (ROOT / "README.md").read_text()
    used = set(re.findall(r"(?m)^(?:\$ |    )?autometa ([a-z]+)", readme))
    assert used <= shown
    assert {"search", "export", "train", "evaluate", "dashboard", "datasets", "spaces", "studies"} <= used
    below = set(re.findall(r"(?m)^    autometa ((?:studies|priors) [a-z]+)", readme))
    assert below <= {
        f"{name} {command.name}" for name, group in groups.items() for command in group.registered_commands
    }
    help_text = "".join(
        subprocess.run([sys.executable, "-m", "autometa", *c.split(), "--help"], capture_output=True, text=True).stdout
        for c in sorted(used | below)
    )
    for option in set(re.findall(r"(?<!pip )(--[a-z][a-z-]+)", readme)):
        assert option in help_text, option


def test_the_learner_in_contributing_works_as_it_stands() -> None:
    import torch

    from autometa.learning.backbones.conv import Conv
    from autometa.learning.learner import Setting
    from tests.conftest import make_episodes

    text = (ROOT / "CONTRIBUTING.md").read_text()
    code = re.findall(r"```python\n(.*?)```", text, flags=re.S)[0]
    module: dict = {"__name__": "nearest"}
    exec(compile(code, "CONTRIBUTING.md", "exec"), module)
    from autometa.testing import check_learner

    check_learner(module["Nearest"], temperature=0.2)
    torch.manual_seed(0)
    learner = module["Nearest"](Conv((2, 8, 8), depth=2, width=8), Setting(3, 6), temperature=0.2)
    episodes = make_episodes(query=10)
    loss, _ = learner.loss(episodes)
    loss.backward()
    assert learner.backbone.blocks[0].conv.weight.grad.abs().sum() > 0
    accuracy = (learner.eval().query_logits(episodes).argmax(-1) == episodes.query_y).float().mean()
    assert accuracy > 0.5
