"""What a search looks like while it runs: a live table, plain lines, or JSON lines.

Each view is a function of events; none knows how a search works.
"""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autometa.cli.as_json import print_json
from autometa.cli.words import for_new_classes, percent, seconds, summary
from autometa.events import (
    BaselineMeasured,
    ClusterJoined,
    Confirmed,
    Confirming,
    Event,
    LearningFromPast,
    Retraining,
    RungReached,
    SearchStarted,
    TrialEnded,
    TrialPaused,
    TrialStarted,
    Warned,
)
from autometa.records import Accuracy, Confirmation

# Drawing a hundred trials four times a second took three quarters of the driver's time, for more than a screen holds.
_MOST_ROWS = 20
# Past trials whose fit takes some seconds: fewer are not worth a line in a log.
_MANY_TRIALS = 5_000
# Each line printed above the table draws it again: at a hundred events a second that was half of the driver's time.
_SECONDS_BETWEEN_PRINTS = 0.25


class View(ABC):
    """Shows events; used as a context manager so that the screen is left clean."""

    @abstractmethod
    def __call__(self, event: Event) -> None:
        """Show one event."""

    def __enter__(self) -> View:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None


def make_view(*, as_json: bool) -> View:
    """JSON lines if asked for, a live table on a terminal, else plain lines."""
    if as_json:
        return JsonLines()
    return LiveTable() if sys.stdout.isatty() else PlainLines()


class JsonLines(View):
    """One JSON object a line on stdout."""

    def __call__(self, event: Event) -> None:
        print_json(event.as_dict())


class PlainLines(View):
    """One line an event, for logs and pipes."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, event: Event) -> None:
        line = _line(event)
        if line:
            print(f"[{seconds(time.monotonic() - self._start)}] {line}", flush=True)


@dataclass
class _Running:
    values: dict[str, Any]
    rung: int
    rungs: int | None = None
    accuracy: Accuracy | None = None
    started: float = field(default_factory=time.monotonic)


class LiveTable(View):
    """Trials running, the best so far with its interval, and the time left; lines that matter scroll above."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._clock = time.monotonic()
        self._about: SearchStarted | None = None
        self._running: dict[int, _Running] = {}
        self._best: tuple[int, Accuracy, dict[str, Any]] | None = None
        self._ended = 0
        self._seen: set[int] = set()
        self._note = "starting …"
        self._lines: list[str] = []  # shown at the top of the table until they are printed above it
        self._printed = -_SECONDS_BETWEEN_PRINTS
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveTable:
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._print_lines()
        self._live.__exit__(kind, error, at)

    def __call__(self, event: Event) -> None:
        match event:
            case SearchStarted():
                self._about, self._ended = event, event.ended
            case TrialStarted():
                self._running[event.number] = _Running(event.values, event.rung)
                self._seen.add(event.number)
            case TrialPaused():
                self._running.pop(event.number, None)
            case RungReached():
                self._reached(event)
            case TrialEnded():
                self._running.pop(event.number, None)
                self._ended += 1
            case Confirming():
                self._running.clear()
        self._note = _note(event, self._note)
        line = None if isinstance(event, RungReached | TrialStarted) else _line(event)
        if line:
            self._lines.append(line)
        if time.monotonic() - self._printed >= _SECONDS_BETWEEN_PRINTS:
            self._print_lines()

    def _print_lines(self) -> None:
        lines, self._lines = self._lines, []
        if lines:
            self._console.print("\n".join(lines), highlight=False, markup=False)
            self._printed = time.monotonic()

    def _reached(self, event: RungReached) -> None:
        trial = self._running.get(event.number)
        if trial is None:
            return
        trial.rung, trial.rungs, trial.accuracy = event.report.rung, event.rungs, event.report.accuracy
        if self._best is None or event.report.accuracy.mean > self._best[1].mean:
            self._best = (event.number, event.report.accuracy, trial.values)

    def _render(self) -> RenderableType:
        parts: list[RenderableType] = [Text(line) for line in self._lines]
        if self._running:
            parts.append(self._table())
        if self._best:
            number, accuracy, values = self._best
            parts.append(Text(f"best so far  {percent(accuracy)}  trial {number}  {summary(values, 70)}", style="bold"))
        if self._about:
            parts.append(self._progress(self._about))
        if self._note:
            parts.append(Text(self._note, style="dim"))
        return Group(*parts)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for column in ("trial", "rung", "accuracy", "time", "candidate"):
            table.add_column(column, no_wrap=True)
        for number, trial in sorted(self._running.items())[:_MOST_ROWS]:
            rung = f"{trial.rung}/{trial.rungs}" if trial.rungs else str(trial.rung)
            accuracy = percent(trial.accuracy) if trial.accuracy else "–"
            age = seconds(time.monotonic() - trial.started)
            table.add_row(str(number), rung, accuracy, age, summary(trial.values, 70))
        if len(self._running) > _MOST_ROWS:
            table.add_row("…", f"{len(self._running) - _MOST_ROWS} more")
        return table

    def _progress(self, about: SearchStarted) -> RenderableType:
        row = Table.grid(padding=(0, 1))
        if about.trials is None:
            passed, total = time.monotonic() - self._clock, about.deadline_seconds or 1.0
            row.add_row(
                ProgressBar(total=total, completed=min(passed, total), width=30),
                f"{len(self._seen)} candidates",
                self._time_left(about),
            )
            return row
        bar = ProgressBar(total=about.trials, completed=self._ended, width=30)
        row.add_row(bar, f"{self._ended}/{about.trials} trials", self._time_left(about))
        return row

    def _time_left(self, about: SearchStarted) -> str:
        passed = time.monotonic() - self._clock
        if about.deadline_seconds:
            return f"{seconds(max(0.0, about.deadline_seconds - passed))} left"
        done = self._ended - about.ended
        if not done or about.trials is None:
            return f"{seconds(passed)} so far"
        return f"about {seconds(passed / done * (about.trials - self._ended))} left"


def _note(event: Event, before: str) -> str:
    """What stands below the table while there are no trials to look at."""
    match event:
        case LearningFromPast():
            return f"{_learning(event)} …"
        case SearchStarted():
            return ""
        case Confirming():
            return f"measuring {_finalists(event)} again on up to {event.episodes} fresh episodes …"
        case Retraining():
            return "training the best again with other seeds …"
    return before


def _amount(event: SearchStarted) -> str:
    if event.trials is None:
        return f"candidates go on from rungs of {event.budget}"
    return f"{event.trials} trials of {event.budget}"


def _started(event: SearchStarted) -> str:
    gpus = f", {event.gpus_per_trial:g} GPU each" if event.gpus_per_trial else ""
    again = f", {event.ended} of them ended before" if event.ended else ""
    task = f"{event.dataset} {event.episodes}"
    return (
        f"study {event.study}: {task}, {_amount(event)}{again}, "
        f"{event.workers} at once{gpus}, kept in {event.storage}" + (f"\n{event.prior}" if event.prior else "")
    )


def _learning(event: LearningFromPast) -> str:
    return f"learning from {event.studies} past studies, {event.trials:,} trials"


def _continued(event: TrialStarted) -> str:
    return f" (continues trial {event.continues} from rung {event.rung})" if event.continues is not None else ""


def _confirmed(c: Confirmation) -> str:
    test = f", meta-test {for_new_classes(c.test)}" if c.test else ""
    seeds = f", {for_new_classes(c.retrained.validation)} with other seeds" if c.retrained else ""
    return f"{c.source} confirmed at {for_new_classes(c.validation)}{seeds}{test}"


def _finalists(event: Confirming) -> str:
    trials = [f"the best {len(event.trials)}"] if event.trials else []
    return " and ".join([*trials, *([f"baseline {event.baseline}"] if event.baseline else [])])


def _line(event: Event) -> str:
    match event:
        case SearchStarted():
            return _started(event)
        case LearningFromPast() if event.trials >= _MANY_TRIALS:
            return _learning(event)
        case BaselineMeasured():
            baseline = event.baseline
            return f"baseline {baseline.name}: {percent(baseline.accuracy)} in {baseline.seconds:.1f} s"
        case ClusterJoined():
            return f"joined the Ray cluster at {event.cluster}"
        case TrialStarted():
            return f"trial {event.number} started{_continued(event)}: {summary(event.values)}"
        case RungReached():
            report = event.report
            rung = f"rung {report.rung}" + (f"/{event.rungs}" if event.rungs else "")
            return f"trial {event.number} {rung}: {percent(report.accuracy)} after {report.steps} steps"
        case TrialEnded():
            value = f" at {percent(event.accuracy)}" if event.accuracy else ""
            return f"trial {event.number} {event.state.upper()}{value}" + (f": {event.reason}" if event.reason else "")
    return _line_of_end(event)


def _line_of_end(event: Event) -> str:
    match event:
        case Confirming():
            return f"measuring {_finalists(event)} again on up to {event.episodes} fresh validation episodes"
        case Confirmed():
            return _confirmed(event.confirmation)
        case Retraining():
            models = sum(map(len, event.seeds.values()))
            return f"training the best {len(event.seeds)} again with other seeds: {models} models"
        case Warned():
            return f"warning: {event.message}"
    return ""
