"""One folder a study: `study.toml` says what was searched, `trials.jsonl` holds one ended trial a line.

It writes a folder as a whole or not at all, and reads one back as unchecked data; it does not know what the
fields mean (`archive.py` and `foreign.py` do).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from autometa.errors import ConfigError, StudyError, write_trouble

HEAD, TRIALS = "study.toml", "trials.jsonl"
_LONGEST_NAME = 100  # bytes are limited to 255, and a draft's name is longer
_LONGEST_FOLDER = 200
_LARGEST = 512 * 2**20  # bytes of a file; a hundred thousand trials of nine rungs have 300 MiB


def write(root: Path, name: str, head: Mapping[str, Any], lines: Iterable[str]) -> Path:
    """Write (or replace as a whole) the folder `root/name`; returns it.

    Raises:
        StudyError: `name` is not the name of a folder right below `root`, `root` is no folder, or nothing can be
            written there; what was there before is there still.
    """
    _check_below(root, name)
    target = root / name
    try:
        root.mkdir(parents=True, exist_ok=True)
        _write(target, head, lines)
    except (FileExistsError, NotADirectoryError):
        raise StudyError(f"{root}: not a folder, so no archive can be written there") from None
    except OSError as error:
        trouble = write_trouble(error)
        if trouble is None:
            raise
        raise StudyError(f"{target}: no archive can be written there: {trouble}") from None
    return target


def _write(target: Path, head: Mapping[str, Any], lines: Iterable[str]) -> None:
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        (draft / HEAD).write_text(tomli_w.dumps(head), encoding="utf-8")
        (draft / TRIALS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        _swap(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def remove(folder: Path) -> None:
    """Remove a folder; it is out of sight before anything in it is gone.

    Raises:
        StudyError: its path ends in no name of a folder, such as `..`.
    """
    _check_below(folder.parent, folder.name)
    if folder.is_symlink():
        folder.unlink()
        return
    aside = folder.with_name(f".{folder.name}.removed")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)
    shutil.rmtree(aside)


def read_head(folder: Path) -> tuple[str, dict[str, Any]]:
    """The format that a folder says it has, and the other fields of its `study.toml`."""
    file = folder / HEAD
    try:
        head = tomllib.loads(_text(file))
    except OSError:
        raise StudyError(f"{folder}: not an archived study: no readable {HEAD}") from None
    except (ValueError, RecursionError) as error:  # a ValueError of TOML, of UTF-8, or of a number of 5,000 digits
        raise StudyError(f"{file}: not valid TOML: {error}") from None
    return str(head.pop("format", "")), head


def head_of(folder: Path, form: str) -> dict[str, Any]:
    """The fields of the `study.toml` of an archive that must have this format."""
    found, head = read_head(folder)
    if found != form:
        raise StudyError(f"{folder / HEAD}: format is not {form!r}")
    return head


def read_lines(folder: Path) -> Iterator[tuple[str, Any]]:
    """Each trial as JSON has it, with its place for messages."""
    file = folder / TRIALS
    try:
        text = _text(file)
    except (OSError, UnicodeDecodeError):
        raise StudyError(f"{file}: cannot be read") from None
    # Not splitlines: a category may hold one of the line breaks that JSON does not escape (U+2028).
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), 1):
        where = f"{file}: line {number}"
        try:
            yield where, json.loads(line)
        except json.JSONDecodeError as error:
            raise ConfigError(f"{where}: not valid JSON: {error.msg}") from None
        except ValueError as error:  # Python reads no number of more than 4,300 digits
            raise ConfigError(f"{where}: {error}") from None
        except RecursionError:
            raise ConfigError(f"{where}: not valid JSON: nested too deeply") from None


def found_in(root: Path) -> list[Path]:
    """Folders of studies in `root` by name; a draft or what is being replaced is hidden and is none."""
    return [file.parent for file in sorted(root.glob(f"*/{HEAD}")) if not file.parent.name.startswith(".")]


def safe_name(text: str, *, longest: int = _LONGEST_NAME) -> str:
    """The name of a study and its folder, near to `text`: no separators, no leading dot, at most `longest` bytes."""
    name = re.sub(r"[^\w.+=-]+", "-", text).strip("-.")
    while len(name.encode()) > longest:
        name = name[:-1]
    return name.rstrip("-.") or "study"


def check_name(name: str, *, where: str) -> None:
    """Raise `ConfigError` unless `name` may be given to a new study: it names its folders in `runs/` and `studies/`."""
    if name != safe_name(name):
        raise ConfigError(
            f"{where} {name!r}: a name has letters, digits and . _ + = - in it, begins and ends with none of . and -, "
            f"and is at most {_LONGEST_NAME} bytes long; such as {safe_name(name)!r}"
        )


def is_folder_name(name: str) -> bool:
    """Whether it names a folder right below another, and not a hidden one."""
    is_plain = name.isprintable() and not name.startswith(".") and not {"/", "\\"} & set(name)
    return bool(name) and is_plain and len(name.encode()) <= _LONGEST_FOLDER


def _check_below(root: Path, name: str) -> None:
    """Whoever calls, nothing outside the folder of archives is written, moved or deleted."""
    if not is_folder_name(name):
        raise StudyError(f"{name!r} is no name of an archive in {root}")


def _text(file: Path) -> str:
    """What a file holds; raises `OSError` for a pipe, which may never end, and `StudyError` for one beyond all size."""
    if not file.is_file():
        raise FileNotFoundError(file)
    if file.stat().st_size > _LARGEST:
        raise StudyError(f"{file}: larger than {_LARGEST // 2**20} MiB")
    return file.read_text(encoding="utf-8")


def _swap(draft: Path, target: Path) -> None:
    """Put the draft in the target's place; a folder cannot be replaced in one step, so the old steps aside."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.chmod(draft, 0o755)  # mkdtemp makes it private
    os.rename(draft, target)
    shutil.rmtree(old, ignore_errors=True)
