"""The archive: what is written comes back, and what is broken is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from autometa.archives import archive, folders
from autometa.errors import AutometaError
from tests.archives.example_studies import STUDY, TRIALS


def test_a_study_comes_back_as_it_was_and_is_replaced_as_a_whole(tmp_path: Path) -> None:
    archive.write(tmp_path, STUDY, TRIALS[:1])
    folder = archive.write(tmp_path, STUDY, TRIALS)
    past = archive.read(folder)
    assert past.study == STUDY
    assert list(past.trials) == TRIALS
    assert [p.name for p in tmp_path.iterdir()] == ["digits-5w1s"]
    assert list(archive.list_archives(tmp_path)) == [folder]


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("study.toml", "name = ", "study.toml: not valid TOML"),
        ("study.toml", 'format = "other/1"', "format is not 'autometa-study/1'"),
        ("study.toml", 'format = "autometa-study/1"\nname = "x"', "study.toml: dataset"),
        ("trials.jsonl", '{"number": 1\n', "line 1: not valid JSON"),
        ("trials.jsonl", '{"number": -1, "state": "pruned", "config": {"values": {}}}', "line 1: number"),
    ],
)
def test_a_broken_archive_is_named_by_file_and_field(tmp_path: Path, file: str, text: str, says: str) -> None:
    folder = archive.write(tmp_path, STUDY, TRIALS)
    (folder / file).write_text(text)
    with pytest.raises(AutometaError) as caught:
        archive.read(folder)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [".", "..", "", "../out", "a/b", "a\\b", "/tmp/out", ".hidden", "nul\0", "x" * 201])
def test_nothing_outside_the_folder_of_archives_is_written_or_deleted(tmp_path: Path, name: str) -> None:
    root = tmp_path / "studies"
    archive.write(root, STUDY, TRIALS)
    (tmp_path / "out").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(AutometaError, match="is no name of an archive"):
        archive.write(root, STUDY.model_copy(update={"name": name}), TRIALS)
    if Path(root / name).name in (".", "..", ".hidden"):
        with pytest.raises(AutometaError, match="is no name of an archive"):
            folders.remove(root / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_under_the_archives_is_one_line_and_leaves_what_was_there(
    tmp_path: Path, small_disk: Callable[[Path, str], None]
) -> None:
    small_disk(tmp_path / "studies", "size=32k")
    folder = archive.write(tmp_path / "studies", STUDY, TRIALS)
    with pytest.raises(AutometaError, match="digits-5w1s: no archive can be written there: no space left on the disk"):
        archive.write(tmp_path / "studies", STUDY, TRIALS * 200)
    assert archive.read(folder).trials == tuple(TRIALS)
    assert list((tmp_path / "studies").iterdir()) == [folder]
