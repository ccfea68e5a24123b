"""The files of a checkpoint, written whole or not at all; it loads no torch and does not know what is in them."""

from __future__ import annotations

import json
import os
from pathlib import Path

from autometa.errors import CheckpointError, StopSearchError, write_trouble
from autometa.learning.checkpoint_facts import FACTS, read_facts

_DRAFT = ".draft"


def copy(folder: Path, to: Path) -> None:
    """Write a checkpoint's copy into another folder, in place of one that is there; raises as `save` and `load` do."""
    facts = read_facts(folder)
    tensors = str(facts["tensors"])
    try:
        to.mkdir(parents=True, exist_ok=True)
        write(to / tensors, (folder / tensors).read_bytes())
        write(to / FACTS, json.dumps(facts).encode())
        tidy(to, tensors)
    except OSError as error:
        raise unwritable(to, error) from None


def unwritable(folder: Path, error: OSError) -> StopSearchError | CheckpointError:
    """The error to raise where a checkpoint cannot be written."""
    if trouble := write_trouble(error):
        return StopSearchError(f"no checkpoint can be written to {folder}: {trouble}")
    return CheckpointError(f"{folder}: cannot be written: {error.strerror or error}")


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
