"""Storages: what the project's own files promise about them."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from sqlalchemy.engine import make_url

from autometa.errors import StorageError
from autometa.hpo.single_writer import SingleWriter
from autometa.hpo.storage import open_storage, storage_failures

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.mark.skipif(not PROJECT.is_file(), reason="only in a checkout")
def test_the_extra_brings_the_driver_that_a_plain_url_asks_for() -> None:
    extra = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]["postgresql"]
    driver = make_url("postgresql://me@host/base").get_dialect().driver
    assert driver in {re.split(r"[\[<>=~!]", one)[0] for one in extra}


@pytest.mark.parametrize("kind", ["sqlite:///", "journal:"])
def test_a_full_disk_under_a_storage_is_one_line_and_what_it_had_is_kept(
    tmp_path: Path, small_disk: Callable[[Path, str], None], kind: str
) -> None:
    disk = tmp_path / "disk"
    small_disk(disk, "size=1m")
    url = f"{kind}{disk / 'studies'}"
    study = optuna.create_study(study_name="s", storage=SingleWriter(open_storage(url)))
    written = []

    def fill() -> None:
        for number in range(1000):
            trial = study.ask()
            trial.set_user_attr("text", "x" * 2000)
            study.tell(trial, 0.5)
            written.append(number)

    with pytest.raises(StorageError) as caught, storage_failures(url):
        fill()
    assert written
    message = str(caught.value)
    assert "\n" not in message
    assert "full" in message or "no space left" in message
    assert message.endswith("what it had is kept: the same command continues")

    small_disk(disk, "size=20m")
    again = optuna.load_study(study_name="s", storage=open_storage(url))
    assert len([t for t in again.trials if t.value == 0.5]) == len(written)
    again.tell(again.ask(), 0.7)
