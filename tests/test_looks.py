"""The record of test looks: each model on each set of test classes, whoever writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import autometa
from autometa import looks
from autometa.records import EpisodeSpec, Look

ONE = """
import sys
from autometa import looks
from tests.test_looks import look
for n in range(20):
    looks.note(look(model=f"{sys.argv[1]}-{n}"))
"""


def look(model: str = "a", fingerprint: str = "f00d", dataset: str = "digits", **more: object) -> Look:
    at = {"when": "2026-11-24T10:00:00+00:00", "what": "evaluate runs/models/a", "episodes": EpisodeSpec(), "seed": 3}
    return Look.model_validate(
        {**at, "dataset": dataset, "fingerprint": fingerprint, "model": model, "mean": 0.7, **more}
    )


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOMETA_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_look_is_a_model_that_was_not_yet_measured_on_these_test_classes(home: Path) -> None:
    numbers = [looks.note(look(model)).number for model in ("a", "b", "a", "c")]
    assert numbers == [1, 2, 1, 3]
    assert looks.note(look("a", attack=(0.03, 10), seed=4)).number == 1, "other episodes of the same model"
    assert looks.note(look("c", fingerprint="beef", dataset="birds")).number == 1, "other test classes"
    assert len(autometa.test_looks()) == 6, "every measurement is written down"


def test_looks_are_found_by_the_name_of_a_data_set_or_its_content(home: Path) -> None:
    looks.note(look("a", "f00d", "digits"))
    looks.note(look("b", "f00d", "renamed"))
    looks.note(look("c", "beef", "birds"))
    assert [entry.model for entry in autometa.test_looks("digits")] == ["a", "b"]
    assert [entry.model for entry in autometa.test_looks("f00d")] == ["a", "b"]
    assert autometa.test_looks("nothing") == []


def test_two_processes_lose_no_look(home: Path) -> None:
    root = Path(autometa.__file__).parents[1]
    both = [subprocess.Popen([sys.executable, "-c", ONE, name], cwd=root, env={**os.environ}) for name in ("x", "y")]
    assert [process.wait() for process in both] == [0, 0]
    assert sorted(entry.number or 0 for entry in autometa.test_looks()) == list(range(1, 41))


def test_a_line_that_a_crash_cut_is_passed_over_and_the_next_one_is_whole(home: Path) -> None:
    looks.note(look("a"))
    file = home / "test-looks.jsonl"
    file.write_bytes(file.read_bytes() + b'{"when": "2026-11-2')
    assert looks.note(look("b")).number == 2
    assert [json.loads(line)["model"] for line in (file.read_text().splitlines()[0], file.read_text().splitlines()[2])]
    assert [entry.model for entry in autometa.test_looks()] == ["a", "b"]


def test_a_home_that_cannot_be_written_warns_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("AUTOMETA_HOME", str(tmp_path / "file" / "home"))
    with pytest.warns(UserWarning, match="record of test looks cannot be written") as warned:
        numbers = [looks.note(look(model)).number for model in ("a", "b")]
    assert numbers == [None, None]
    assert len(warned) == 1
