"""The files of a checkpoint, written whole or not at all; it loads no torch and does not know what is in them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from autometa.errors import CheckpointError, StopSearchError, write_trouble
from autometa.learning.checkpoint_facts import FACTS, read_facts

_DRAFT = ".draft"


def copy(folder: Path, to: Path) -> None:
    """Write a checkpoint's copy into another folder, in place of one that is there; raises as `save` and `load` do.

    On one disk the tensors are there once, under both names: they are never written over.
    """
    facts = read_facts(folder)
    tensors = str(facts["tensors"])
    try:
        to.mkdir(parents=True, exist_ok=True)
        _link(folder / tensors, to / tensors)
        write(to / FACTS, json.dumps(facts).encode())
        tidy(to, tensors)
    except OSError as error:
        raise unwritable(to, error) from None


def remove(folder: Path) -> None:
    """Remove a checkpoint; at no moment is there a part of one."""
    (folder / FACTS).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def unwritable(folder: Path, error: OSError) -> StopSearchError | CheckpointError:
    """The error to raise where a checkpoint cannot be written."""
    if trouble := write_trouble(error):
        return StopSearchError(f"no checkpoint can be written to {folder}: {trouble}")
    return CheckpointError(f"{folder}: cannot be written: {error.strerror or error}")


def _link(file: Path, to: Path) -> None:
    """Give a file a second name, or copy it where its disk or the other one cannot do that."""
    if to.exists():  # a name of the same content
        return
    try:
        to.hardlink_to(file)
    except OSError:
        write(to, file.read_bytes())


def write(file: Path, data: bytes) -> None:
    """Write a file whole or not at all, and have it on disk before going on."""
    draft = file.with_name(f".{file.name}{_DRAFT}")
    with draft.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    os.replace(draft, file)
    entries = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(entries)
    finally:
        os.close(entries)


def tidy(folder: Path, tensors: str) -> None:
    """Remove the tensors of checkpoints before, and what a crash left half written."""
    for old in (*folder.glob("step-*.safetensors"), *folder.glob(f".*{_DRAFT}")):
        if old.name != tensors:
            old.unlink(missing_ok=True)
