"""Where autometa keeps what must outlive its cache: splits, looks at test classes, and what searches learned."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

OWN_STUDIES = Path("runs") / "studies"
"""Where searches write their archives, in the working folder: two projects may have studies of one name."""


def home() -> Path:
    """`AUTOMETA_HOME`, or the user's data folder."""
    return Path(os.environ.get("AUTOMETA_HOME") or platformdirs.user_data_dir("autometa"))
