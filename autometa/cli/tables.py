"""Tables on the terminal and in a pipe."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table


def new_table(*columns: str) -> Table:
    """A table with these headers, its cells folded where the terminal ends."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def print_table(table: Table) -> None:
    """Print it; in a pipe, without folding."""
    console = Console(markup=False)  # a name in square brackets is a name
    if not console.is_terminal:
        console.width = 200  # a pipe has no width, and rich would fold at 80
    console.print(table)
