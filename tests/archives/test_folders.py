"""Folders of studies: written whole or not at all, and named so that they stay where they belong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from autometa.archives import folders
from autometa.errors import StudyError


def test_what_breaks_off_leaves_what_was_there(tmp_path: Path) -> None:
    def breaks_off() -> Iterator[str]:
        yield '{"new": 1}'
        raise KeyboardInterrupt

    folders.write(tmp_path, "kept", {"format": "f/1"}, ['{"old": 1}'])
    with pytest.raises(KeyboardInterrupt):
        folders.write(tmp_path, "kept", {"format": "f/2"}, breaks_off())
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]
    assert folders.read_head(tmp_path / "kept") == ("f/1", {})
    assert [data for _, data in folders.read_lines(tmp_path / "kept")] == [{"old": 1}]


def test_a_draft_of_a_process_that_died_is_no_study(tmp_path: Path) -> None:
    for name in (".kept-x1", ".kept.old", "kept"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.toml").write_text("")
    assert folders.found_in(tmp_path) == [tmp_path / "kept"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("digits-5w1s", "digits-5w1s"),
        ("../../etc/passwd", "etc-passwd"),
        ("my study / 2", "my-study-2"),
        ("...", "study"),
        (".hidden", "hidden"),
        ("größe=0.5", "größe=0.5"),
        ("line\nbreak\0", "line-break"),
        ("C:\\x", "C-x"),
    ],
)
def test_any_text_becomes_the_name_of_a_folder(text: str, name: str) -> None:
    assert folders.safe_name(text) == name


def test_a_long_name_fits_a_file_system() -> None:
    assert 0 < len(folders.safe_name("ß" * 300).encode()) <= 100


def test_removing_a_link_keeps_what_it_points_to(tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "elsewhere", "x", {}, ["{}"])
    (tmp_path / "link").symlink_to(folder)
    folders.remove(tmp_path / "link")
    assert not (tmp_path / "link").exists()
    assert (folder / "study.toml").is_file()
    folders.remove(folder)
    assert list(folder.parent.iterdir()) == []


def test_an_archive_is_not_written_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StudyError, match="not a folder"):
            folders.write(root, "x", {}, [])
    assert (tmp_path / "file").read_text() == "mine"
