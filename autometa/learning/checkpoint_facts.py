"""The part of a checkpoint that needs no torch: its JSON, for drivers and lists.

`checkpoint.json` is written last and names the tensor file it belongs to, so it is the truth of what is
there; see `checkpoints.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from autometa.errors import CheckpointError

FACTS = "checkpoint.json"
FORMAT = "autometa-checkpoint/1"


def exists(folder: Path) -> bool:
    """Whether the folder holds a checkpoint."""
    return (folder / FACTS).is_file()


def read_facts(folder: Path) -> dict[str, Any]:
    """Steps, seconds, curve and `extra` of a checkpoint; raises `CheckpointError` when it is not one."""
    file = folder / FACTS
    try:
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no checkpoint there ({FACTS} is missing)") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: damaged: {error}") from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise CheckpointError(f"{file}: not a checkpoint of this version ({FORMAT})")
    return facts
