"""Where autometa keeps what must outlive its cache: splits of image folders, and the record of test looks."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """`AUTOMETA_HOME`, or the user's data folder."""
    return Path(os.environ.get("AUTOMETA_HOME") or platformdirs.user_data_dir("autometa"))
