"""`docs/learners.md` tells of every learner, and its measured figures stand in the files it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from autometa.trial.build import LEARNERS

PAGE = Path(__file__).parents[2] / "docs" / "learners.md"
PARTS = ("Paper", "What it does", "What differs", "Published", "Measured")
FIGURE = re.compile(r"[+−]?\d+\.\d ± \d+\.\d")  # a gain with its sign


def sections() -> dict[str, dict[str, str]]:
    """Of each learner, the text of each part."""
    found = {}
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        name, text = section.split("\n", 1)
        pieces = re.split(r"^- \*\*(.+?)\.\*\*", text, flags=re.MULTILINE)[1:]
        found[name.strip("`")] = dict(zip(pieces[::2], pieces[1::2], strict=True))
    return found


def linked(text: str) -> list[Path]:
    return [(PAGE.parent / target).resolve() for target in re.findall(r"\]\((.+?)\)", text)]


def test_every_learner_has_its_section_and_no_other() -> None:
    assert list(sections()) == list(LEARNERS)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_section_says_all_that_it_should(name: str) -> None:
    parts = sections()[name]
    assert tuple(parts) == PARTS
    assert all(len(text.split()) >= 5 for text in parts.values())
    assert re.search(r"\b(19|20)\d\d\b", parts["Paper"])
    assert re.search(r"arXiv\s+\d{4}\.\d{5}|not on\s+arXiv", parts["Paper"])


@pytest.mark.parametrize("name", LEARNERS)
def test_measured_figures_stand_in_files_of_results(name: str) -> None:
    measured = sections()[name]["Measured"]
    files = linked(measured)
    assert files
    assert all(file.is_file() and file.parent.name == "results" for file in files)
    rows = "\n".join(file.read_text(encoding="utf-8") for file in files)
    figures = FIGURE.findall(measured)
    assert figures
    assert [figure for figure in figures if figure not in rows] == []
