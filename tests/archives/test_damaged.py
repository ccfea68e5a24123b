"""Damaged archives: each is left out with one line that names its file, and nothing else stops."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from autometa import shipped
from autometa.archives import archive, foreign, read
from autometa.study import warm
from tests.archives.example_studies import LOSSES
from tests.cli.test_cli import run

GOOD = "digits-5w1s"


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """A sound archive, one of autometa's own to be damaged, and one of others."""
    root = tmp_path / archive.ARCHIVES
    for name in (GOOD, "own"):
        shutil.copytree(shipped.folder("studies") / GOOD, root / name)
    foreign.write(root, LOSSES)
    return root


def line(**fields: str) -> str:
    """One trial as JSON text, with fields in place of sound ones."""
    sound = {
        "number": "0",
        "state": '"complete"',
        "config": '{"values":{"outer_lr":0.1}}',
        "curve": "[]",
        "reason": "null",
    }
    return "{" + ",".join(f'"{name}":{text}' for name, text in (sound | fields).items()) + "}\n"


def report(**fields: str) -> str:
    accuracy = '{"mean":0.5,"half_width":0.01,"episodes":10,"seed":0}'
    sound = {"rung": "1", "accuracy": accuracy, "steps": "1", "seconds": "1.0"} | fields
    return "[{" + ",".join(f'"{name}":{text}' for name, text in sound.items()) + "}]"


TEXTS: dict[str, str | bytes] = {
    "a number of 5,000 digits": line(number="1" * 5000),
    "a value of 5,000 digits": line(config='{"values":{"outer_lr":' + "7" * 5000 + "}}"),
    "a value of 400 digits": line(config='{"values":{"outer_lr":' + "7" * 400 + "}}"),
    "a deep list": line(curve="[" * 100_000),
    "a deep list that ends": line(curve="[" * 900 + "]" * 900),
    "a deep object": line(reason='{"a":' * 50_000),
    "NaN": line(curve=report(seconds="NaN")),
    "infinity": line(curve=report(seconds="1e999")),
    "half of a surrogate pair": line(config='{"values":{"outer_lr":"\\ud800"}}'),
    "a list for a trial": "[1, 2]\n",
    "a number for a trial": "3\n",
    "a truncated line": line() + line()[:30],
    "an empty line": line() + "\n" + line(),
    "a field of a megabyte": line(state='"' + "x" * 2**20 + '"'),
    "a text for a number": line(number='"first"'),
    "an accuracy above 1": line(curve=report(accuracy='{"mean":1.5,"half_width":0,"episodes":1,"seed":0}')),
    "a rung beyond all memory": line(curve=report(rung="1000000000000")),
    "binary garbage": bytes(range(256)) * 20,
    "UTF-16": line().encode("utf-16"),
    "zeros": b"\0" * 4096,
}


@pytest.mark.parametrize("damage", TEXTS, ids=list(TEXTS))
@pytest.mark.parametrize("name", ["own", "losses"])
def test_a_damaged_archive_is_left_out_with_one_line_that_names_its_file(
    archives: Path, name: str, damage: str
) -> None:
    text = TEXTS[damage]
    (archives / name / "trials.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_left_out(archives, name, "trials.jsonl")


HEADS: dict[str, str | bytes] = {
    "a number of 5,000 digits": "format = " + "1" * 5000,
    "deep": "format = " + "[" * 50_000,
    "not TOML": "format",
    "binary": bytes(range(256)),
    "another format": 'format = "autometa-study/9"',
    "nothing": "",
    "wrong types": 'format = "autometa-study/1"\nname = 3\ndataset = []',
    "a seed that is infinite": 'format = "autometa-past/1"\nname = "x"\ndirection = "maximize"\nfeatures = {a = inf}',
}


@pytest.mark.parametrize("damage", HEADS, ids=list(HEADS))
def test_a_damaged_head_is_left_out_too(archives: Path, damage: str) -> None:
    text = HEADS[damage]
    (archives / "own" / "study.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_left_out(archives, "own", "study.toml")


def as_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def as_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def as_loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def as_huge(file: Path) -> None:
    with file.open("ab") as opened:
        opened.truncate(2**40)  # takes no space


def without_rights(file: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("the superuser may read all files")
    file.chmod(0)


@pytest.mark.parametrize("damage", [as_folder, as_pipe, as_loop, as_huge, Path.unlink, without_rights])
def test_what_is_no_readable_file_is_left_out(archives: Path, damage: Callable[[Path], None]) -> None:
    damage(archives / "own" / "trials.jsonl")
    assert_left_out(archives, "own", "trials.jsonl")


@pytest.mark.parametrize("damage", [as_folder, as_pipe, as_huge])
def test_a_head_that_is_no_readable_file_is_left_out(archives: Path, damage: Callable[[Path], None]) -> None:
    damage(archives / "own" / "study.toml")
    assert_left_out(archives, "own", "study.toml")


def assert_left_out(archives: Path, name: str, file: str) -> None:
    reasons: list[str] = []
    found = read.past_studies(archives, on_broken=reasons.append)
    assert len(found) == 2
    assert len(reasons) == 1
    assert str(archives / name) in reasons[0]
    assert file in reasons[0]
    assert "\n" not in reasons[0]
    assert len(reasons[0]) < 1000


def test_any_few_bytes_changed_are_read_or_left_out(tmp_path: Path) -> None:
    for seed in range(150):
        generator = random.Random(seed)
        folder = tmp_path / str(seed) / "own"
        shutil.copytree(shipped.folder("studies") / GOOD, folder)
        file = folder / generator.choice(["trials.jsonl", "study.toml"])
        data = bytearray(file.read_bytes())
        for _ in range(generator.randint(1, 4)):
            place = generator.randrange(len(data))
            data[place : place + generator.randint(0, 9)] = generator.randbytes(generator.randint(0, 9))
        file.write_bytes(data[: generator.randint(len(data) // 2, len(data))])
        reasons: list[str] = []
        assert len(read.past_studies(folder.parent, on_broken=reasons.append)) + len(reasons) == 1


def test_the_list_of_studies_says_which_are_broken(
    archives: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(archives.parents[1])
    (archives / "own" / "trials.jsonl").write_text(line(number="1" * 5000))
    as_pipe(archives / "losses" / "trials.jsonl")
    code, printed, _ = run(capsys, monkeypatch, "studies")
    assert code == 0
    assert printed.count("broken:") == 2
    assert GOOD in printed


def test_damaged_archives_do_not_stop_a_search_from_learning(archives: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(archives.parents[1])
    (archives / "own" / "trials.jsonl").write_text(line(number="1" * 5000))
    reasons: list[str] = []
    past = warm.comparable("new", "other", None, reasons.append)
    assert {study.name for study in past.studies} >= {GOOD, "losses"}
    assert ["trials.jsonl" in reason for reason in reasons] == [True]
    assert archive.ARCHIVES.is_dir()
