"""The command that most tests start."""

from __future__ import annotations

import sys


def search_digits(*options: str) -> list[str]:
    """`autometa search` on the smallest data set, with this interpreter."""
    return [sys.executable, "-m", "autometa", "search", "--dataset", "digits", *options]
