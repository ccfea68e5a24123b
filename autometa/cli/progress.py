"""Progress bars on stderr for what takes long, and nothing where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from autometa.cli.words import percent
from autometa.records import RungReport


@dataclass(frozen=True)
class TrainingProgress:
    """The callbacks of a training; `on_seed` and `on_member` of one that is one of several."""

    on_step: Callable[[int, float, dict[str, Any]], None]
    on_rung: Callable[[RungReport], None]
    on_seed: Callable[[int], None]
    on_member: Callable[[int, int], None]


@contextmanager
def training_progress(*, quiet: bool) -> Iterator[TrainingProgress]:
    """A bar over the budget, with a line for each rung."""
    with _progress(quiet) as bar:
        task = bar.add_task("training", total=1.0)

        def on_step(step: int, progress: float, _metrics: dict[str, Any]) -> None:
            bar.update(task, completed=progress, description=f"step {step}")

        def on_rung(report: RungReport) -> None:
            if not quiet:
                line = f"step {report.steps}: validation {percent(report.accuracy)}"
                bar.console.print(line, highlight=False)

        def on_seed(seed: int) -> None:
            if not quiet:
                bar.console.print(f"seed {seed}", highlight=False)

        def on_member(number: int, count: int) -> None:
            if not quiet and count > 1:
                bar.console.print(f"member {number} of {count}", highlight=False)

        yield TrainingProgress(on_step, on_rung, on_seed, on_member)


@contextmanager
def episode_progress(episodes: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar over evaluation episodes; call it with the number of episodes just done."""
    with _progress(quiet) as bar:
        task = bar.add_task("episodes", total=episodes)
        yield lambda done: bar.advance(task, done)


@contextmanager
def image_progress(images: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar over query images; call it with how many are done."""
    with _progress(quiet) as bar:
        task = bar.add_task("images", total=images)
        yield lambda done: bar.update(task, completed=done)


_FEW = 3


@contextmanager
def study_progress(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar over studies; call it with how many are done, of how many. A few are done before one could look."""
    with _progress(quiet) as bar:
        task = bar.add_task("studies", visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=total > _FEW)


def _progress(quiet: bool) -> Progress:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} %"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=quiet or not sys.stderr.isatty())
