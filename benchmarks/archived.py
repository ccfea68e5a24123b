"""The archives that ship, for what is measured on them: their sources of images, and where candidates would end."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from build_archive import DESIGN, is_done

from autometa.records import TrialRecord

SOURCES = {one.name: one.source for one in DESIGN}


def names() -> list[str]:
    """Of those that are there, in the order of the design; an earlier archive of the same name is none of them."""
    return [one.name for one in DESIGN if is_done(one)]


def with_result(trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Those that did not fail, and were measured."""
    return [trial for trial in trials if trial.last and trial.state != "fail"]


def at_the_end(trials: Sequence[TrialRecord]) -> list[float]:
    """In per cent, what each would have had at the highest rung of any: its last, and what others gained from there."""
    curves = [{report.rung: 100 * report.accuracy.mean for report in trial.curve} for trial in trials]
    top = max(map(max, curves))
    gains = {rung: _median_gain(curves, rung) for rung in range(1, top)}
    return [curve[max(curve)] + sum(gains[rung] for rung in range(max(curve), top)) for curve in curves]


def _median_gain(curves: Sequence[Mapping[int, float]], rung: int) -> float:
    found = [curve[rung + 1] - curve[rung] for curve in curves if rung in curve and rung + 1 in curve]
    return max(0.0, statistics.median(found)) if found else 0.0
