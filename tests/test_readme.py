"""Every command and every Python snippet of the README runs, in its order, in an empty folder."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import pytest
from PIL import Image

from autometa import shipped
from autometa.cli import main
from tests.study.conftest import environment

README = Path(__file__).parents[1] / "README.md"


@dataclass(frozen=True)
class How:
    """How a command is run: with options in place of hours and of data that is not there; or why it is not run."""

    options: str = ""
    skip: str = ""
    serves: bool = False


AS_IT_IS = How()
TINY = "--trials 1 --budget 9 --workers 1"
FOUND = f"--dataset omniglot {TINY}"  # continues the first search, which is over
PHOTOS = f"--dataset path/to/photos --query 2 --image-size 8 --space one.toml {TINY}"

COMMANDS = {
    "git clone <this repository>": How(skip="this is a clone of it"),
    "cd autometa": How(skip="this is a clone of it"),
    "pip install -c constraints.txt .": How(skip="it is installed, or no test would run"),
    "autometa search": How(TINY),
    "autometa evaluate runs/omniglot-5w1s/model --episodes 2000": How("--episodes 50"),
    "autometa export omniglot-5w1s -o omniglot-5w1s.toml": AS_IT_IS,
    "autometa train omniglot-5w1s.toml -o runs/models/omniglot-5w1s": AS_IT_IS,
    "autometa dashboard": How("--port 0", serves=True),
    "autometa search --dataset path/to/photos --shot 5 --time-budget 1h": How(f"{PHOTOS} --study photos-5w5s"),
    "autometa search --dataset path/to/photos --task all-classes --time-budget 1h": How(PHOTOS),
    "autometa datasets": AS_IT_IS,
    "autometa search --dataset cifar-fs --data-root ~/data --shot 5 --trials 12 --time-budget 15m": How(PHOTOS),
    "autometa spaces few_shot": AS_IT_IS,
    "autometa studies": AS_IT_IS,
    "autometa search --dataset cifar-fs --pretrain-dataset cifar-10 --data-root ~/data --shot 5": How(
        f"{PHOTOS} --pretrain-dataset path/to/others"
    ),
    "autometa evaluate runs/models/omniglot-5w1s --attack pgd --epsilon 8/255": How("--episodes 10"),
    "autometa studies show digits-5w1s": AS_IT_IS,
    "autometa studies archive omniglot-5w1s": How("--replace"),
    "autometa studies import sqlite:///other.db": AS_IT_IS,
    (
        "autometa studies import runs.csv --value loss --direction minimize --rung epoch --trial run --task dataset"
    ): AS_IT_IS,
    "autometa studies remove old-search": How("--yes"),
    "autometa search --dataset cifar-fs --prior-report": How(FOUND),
    "autometa search --dataset cifar-fs --prior my/studies": How(FOUND),
    "autometa search --dataset cifar-fs --cold": How(FOUND),
    "autometa priors map --dataset digits --shot 5": AS_IT_IS,
    "autometa predict runs/photos-5w5s/model --support my_classes/ --query inbox/": AS_IT_IS,
    (
        "autometa predict runs/photos-5w5s/model --support my_classes/ --query inbox/ --reject-rate 0.05 "
        "--copy-to sorted/"
    ): AS_IT_IS,
    "autometa export runs/photos-5w5s/model --to onnx --support my_classes/ -o photos.onnx": AS_IT_IS,
    "python examples/run_onnx.py photos.onnx inbox/*.jpg": How(skip="tests/deployment/test_export.py runs it"),
}

# What stands in a snippet, and what is run in its place.
SNIPPETS = {
    "trials=12": 'trials=1, budget=autometa.records.parse_budget("9"), workers=1',
    "episodes=2000": "episodes=50",
    '"cifar-fs"': '"digits"',
}

ONE = """
name = "one"
[parameters.learner]
choices = ["prototypical"]
[parameters."conv.depth"]
choices = [1]
[parameters."conv.width"]
choices = [4, 8]
"""


def parts() -> list[str]:
    """Commands and Python snippets of the README, in their order; a snippet ends with a line break."""
    snippet = r"^```python\n(?P<code>[\s\S]*?)^```$"
    indented = r"(?<=\n\n)(?P<lines>(?: {4}.+\n)+)"
    found = []
    for block in re.finditer(f"{snippet}|{indented}", README.read_text(encoding="utf-8"), re.MULTILINE):
        if block["code"]:
            found.append(block["code"])
            continue
        for line in block["lines"].splitlines():
            command, _, _ = line.partition(" # ")
            found += [part.strip() for part in command.split("&&")]
    return found


def what_the_readme_takes_for_granted(folder: Path) -> None:
    """Two folders of photographs, other people's studies, and a table of runs."""
    generator = np.random.default_rng(0)
    for name in ("photos", "others"):
        for number in range(25):
            place = folder / "path" / "to" / name / f"{name}{number:02d}"
            place.mkdir(parents=True)
            for image in range(8):
                pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{image}.png")
    for name, count in (("my_classes", 3), ("inbox", 2)):
        for photo in sorted((folder / "path" / "to" / "photos").iterdir())[:4]:
            (folder / name / photo.name).mkdir(parents=True)
            for image in range(count):
                shutil.copy(photo / f"{image}.png", folder / name / photo.name)
    (folder / "one.toml").write_text(ONE)
    shutil.copytree(shipped.folder("studies") / "digits-5w1s", folder / "my" / "studies" / "digits-5w1s")
    for name in ("one", "two", "old-search"):
        study = optuna.create_study(study_name=name, storage=f"sqlite:///{folder / 'other.db'}", direction="maximize")
        study.optimize(lambda trial: trial.suggest_float("rate", 0, 1), n_trials=3)
    rows = [f"{d},{r},{e},{0.1 * r},{1 / (e + r)}" for d in "ab" for r in range(1, 4) for e in range(1, 3)]
    (folder / "runs.csv").write_text("\n".join(["dataset,run,epoch,rate,loss", *rows]))


def run(command: str) -> tuple[int, str]:
    """Exit code, and all that was printed."""
    said = io.StringIO()
    before, sys.argv = sys.argv, shlex.split(command)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main()
    except SystemExit as ended:
        return int(ended.code or 0), said.getvalue()
    finally:
        sys.argv = before
    raise AssertionError("`main` ends by SystemExit")


def answers(command: str) -> bool:
    """Whether a command that serves until it is ended has a page at the address it names."""
    arguments = [sys.executable, "-m", *shlex.split(command)]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment())
    try:
        assert process.stderr is not None
        url = next(word for word in process.stderr.readline().split() if word.startswith("http"))
        return bool(urllib.request.urlopen(url, timeout=20).read())
    finally:
        process.kill()
        process.wait()


def shortened(code: str) -> str:
    for long, short in SNIPPETS.items():
        code = code.replace(long, short)
    return code


def test_it_is_known_how_each_command_of_the_readme_is_run() -> None:
    commands = [part for part in parts() if not part.endswith("\n")]
    unknown = [command for command in commands if command not in COMMANDS]
    assert not unknown, (
        f"README.md has new commands; say in COMMANDS of tests/test_readme.py how each is run: {unknown}"
    )
    gone = [command for command in COMMANDS if command not in commands]
    assert not gone, f"README.md has these commands no more; take them out of COMMANDS of tests/test_readme.py: {gone}"
    code = "".join(part for part in parts() if part.endswith("\n"))
    unused = [long for long in SNIPPETS if long not in code]
    assert not unused, f"no snippet of README.md has this any more; take it out of SNIPPETS: {unused}"


@pytest.mark.timeout(900)  # eight searches take long where much else runs
def test_every_command_and_snippet_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    what_the_readme_takes_for_granted(tmp_path)
    for part in parts():
        if part.endswith("\n"):
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(shortened(part), str(README), "exec"), {})
            continue
        how = COMMANDS.get(part)
        assert how, f"README.md has a new command; say in COMMANDS of tests/test_readme.py how it is run: {part}"
        command = f"{part} {how.options}".strip()
        if how.serves:
            assert answers(command), command
        elif not how.skip:
            code, said = run(command)
            assert code == 0, f"{command}: {said}"
