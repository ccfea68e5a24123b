"""What a search looks like while it runs, on a terminal, in a log, and to a machine."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console, RenderableType

from autometa.cli.live import JsonLines, LiveTable, PlainLines
from autometa.events import (
    BaselineMeasured,
    Confirmed,
    Confirming,
    Event,
    LearningFromPast,
    RungReached,
    SearchStarted,
    TrialEnded,
    TrialStarted,
    Warned,
)
from autometa.records import Accuracy, Baseline, ClassInterval, Confirmation, RungReport, TrialConfig


def accuracy(mean: float) -> Accuracy:
    interval = ClassInterval(low=mean - 0.04, high=mean + 0.03, classes=8, families=8)
    return Accuracy(mean=mean, half_width=0.0123, episodes=100, seed=0, over_classes=interval)


def report(rung: int, mean: float) -> RungReport:
    return RungReport(rung=rung, accuracy=accuracy(mean), steps=40 * rung, seconds=2.0)


MEASURED = Baseline(
    name="ridge-pixels", config=TrialConfig(values={"backbone": "pixels"}), accuracy=accuracy(0.7512), seconds=0.42
)
RUNNING: list[Event] = [
    SearchStarted("digits-5w1s", "digits", "5w1s", "300 steps", 6, 1, 2, 0.0, 90.0, "sqlite:///runs/autometa.db"),
    BaselineMeasured(MEASURED),
    TrialStarted(3, {"learner": "maml", "backbone": "conv", "conv.width": 32, "outer_lr": 0.00123}, None, 0),
    TrialStarted(4, {"learner": "pretrain", "backbone": "resnet12"}, 2, 5),
    RungReached(3, 9, report(2, 0.6543)),
    RungReached(4, 9, report(6, 0.5)),
]
ENDING: list[Event] = [
    TrialEnded(3, "pruned", accuracy(0.6543), None),
    TrialEnded(4, "fail", None, "diverged: loss is nan at step 7"),
    Warned("look out"),
    Confirming([3], 600, "ridge-pixels"),
    Confirmed(Confirmation(trial=3, validation=accuracy(0.64), test=accuracy(0.66))),
]


def test_the_live_table_shows_trials_best_and_time_left() -> None:
    screen = io.StringIO()
    console = Console(file=screen, width=120, force_terminal=True, color_system=None)
    with LiveTable(console) as view:
        for event in RUNNING:
            view(event)
        console.print(view._render())
        shown = screen.getvalue()
        for event in ENDING:
            view(event)
    for part in (
        "2/9",
        "65.43 ± 1.23 %",
        "best so far",
        "trial 3",
        "maml · conv",
        "width=32",
        "1/6 trials",
        "1:29 left",
    ):
        assert part in shown, part
    after = screen.getvalue()[len(shown) :]
    for part in ("trial 3 PRUNED at 65.43 ± 1.23 %", "FAIL: diverged: loss is nan at step 7", "warning: look out"):
        assert part in after, part


def test_many_lines_at_once_are_printed_together(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    view = LiveTable(Console(file=screen, width=120, force_terminal=True, color_system=None))
    drawn: list[int] = []
    draw = view._render

    def counted() -> RenderableType:
        drawn.append(1)
        return draw()

    monkeypatch.setattr(view._live, "_get_renderable", counted)
    with view:
        for event in RUNNING:
            view(event)
        for number in range(200):
            view(TrialEnded(number, "pruned", accuracy(0.5), None))
    assert len(drawn) < 20
    at = [screen.getvalue().rindex(f"trial {number} PRUNED") for number in range(200)]
    assert at == sorted(at)


def test_a_log_has_a_line_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainLines() as view:
        for event in RUNNING + ENDING:
            view(event)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(RUNNING + ENDING)
    assert lines[1].endswith("baseline ridge-pixels: 75.12 ± 1.23 % in 0.4 s")
    assert lines[3].endswith("trial 4 started (continues trial 2 from rung 5): pretrain · resnet12")
    assert lines[-2].endswith("the best 1 and baseline ridge-pixels again on up to 600 fresh validation episodes")
    assert lines[-1].endswith("trial 3 confirmed at 64.0 ± 4.0 %, meta-test 66.0 ± 4.0 %")


def test_every_event_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    with JsonLines() as view:
        for event in RUNNING + ENDING:
            view(event)
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e["event"] for e in events] == [type(e).__name__ for e in RUNNING + ENDING]
    assert events[1]["baseline"] == MEASURED.model_dump()
    assert events[4]["report"]["accuracy"]["mean"] == 0.6543


def test_past_studies_that_take_long_to_fit_are_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainLines() as view:
        view(LearningFromPast(2, 26))
        view(LearningFromPast(20, 100_000))
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("learning from 20 past studies, 100,000 trials")
    screen = io.StringIO()
    console = Console(file=screen, width=120, force_terminal=True, color_system=None)
    with LiveTable(console) as view:
        view(LearningFromPast(2, 26))
        console.print(view._render())
        assert "learning from 2 past studies, 26 trials …" in screen.getvalue()
        view(RUNNING[0])
        console.print(view._render())
    assert "learning" not in screen.getvalue().rsplit("kept in", 1)[1]
