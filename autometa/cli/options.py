"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

Storage = Annotated[
    str | None,
    typer.Option(help="Optuna storage URL. [default: $AUTOMETA_STORAGE, else sqlite:///runs/autometa.db]"),
]
