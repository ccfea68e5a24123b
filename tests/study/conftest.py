"""A folder with a tiny space, and commands that run in it and are killed with the test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import autometa
from tests.commands import search_digits

Start = Callable[[list[str]], subprocess.Popen]

SPACE = """
name = "tiny"
[parameters.learner]
choices = ["prototypical", "pretrain"]
[parameters.backbone]
choices = ["conv"]
[parameters."conv.depth"]
choices = [1, 2]
[parameters."conv.width"]
choices = [4, 8]
[parameters.outer_lr]
low = 1e-3
high = 1e-2
log = true
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(SPACE)
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[[list[str]], subprocess.Popen]]:
    """Start a command in the folder; whatever still runs when the test ends is killed."""
    running: list[subprocess.Popen] = []

    def started(arguments: list[str]) -> subprocess.Popen:
        pipe = subprocess.PIPE
        running.append(subprocess.Popen(arguments, cwd=folder, env=environment(), stdout=pipe, text=True))
        return running[-1]

    yield started
    for process in running:
        process.kill()


def command(*extra: str) -> list[str]:
    """Of a cold search: what ships is another matter, and would decide which candidates there are."""
    base = search_digits("--space", "tiny.toml", "--study", "t", "--shot", "1", "--cold")
    return [*base, *extra]


def environment() -> dict[str, str]:
    root = str(Path(autometa.__file__).resolve().parents[1])
    return {**os.environ, "PYTHONPATH": root}
