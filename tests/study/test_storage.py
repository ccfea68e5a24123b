"""Storages: what the project's own files promise about them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


@pytest.mark.skipif(not PROJECT.is_file(), reason="only in a checkout")
def test_the_extra_brings_the_driver_that_a_plain_url_asks_for() -> None:
    extra = tomllib.loads(PROJECT.read_text())["project"]["optional-dependencies"]["postgresql"]
    driver = make_url("postgresql://me@host/base").get_dialect().driver
    assert driver in {re.split(r"[\[<>=~!]", one)[0] for one in extra}
