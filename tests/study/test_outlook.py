"""What four times the time would give is told of a curve that rises, and of no other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autometa.cli.words import outlook as in_words
from autometa.records import Accuracy, RungReport, TrialConfig, TrialRecord
from autometa.study.outlook import LEFT_AT_DOUBLING, outlook


def trial(accuracy_at: Callable[[int], float], rungs: int = 6, half_width: float = 0.01) -> TrialRecord:
    """Rungs that double, and the model after its cool-down, as long as the last rung."""
    curve = [
        RungReport(
            rung=rung,
            accuracy=Accuracy(mean=accuracy_at(rung), half_width=half_width, episodes=100, seed=0),
            steps=10 * 2**rung,
            seconds=2.0**rung,
        )
        for rung in range(1, rungs + 1)
    ]
    cooled = curve[-1].model_copy(update={"rung": rungs + 1, "cooled": True})
    return TrialRecord(number=3, state="complete", config=TrialConfig(values={}), curve=[*curve, cooled])


def rising(rung: int) -> float:
    return 1 - 0.9 * 0.85**rung


def test_a_power_law_is_told_from_its_last_rungs() -> None:
    found = outlook([trial(rising)], accuracy=0.66, seconds=240)
    assert found is not None
    assert found.seconds == 960
    assert found.gain == pytest.approx(0.34 * (1 - 0.85 ** (LEFT_AT_DOUBLING + LEFT_AT_DOUBLING**2)))
    assert 0 < found.half_width < found.gain


def test_the_first_rungs_do_not_count() -> None:
    found = outlook([trial(lambda rung: rising(rung) if rung > 2 else 0.1)], accuracy=0.66, seconds=240)
    assert found == outlook([trial(rising)], accuracy=0.66, seconds=240)


def test_nothing_is_told_where_it_is_not_clear() -> None:
    assert outlook([trial(lambda rung: 0.7)], accuracy=0.66, seconds=240) is None
    assert outlook([trial(lambda rung: 0.7 - 0.02 * rung)], accuracy=0.66, seconds=240) is None
    assert outlook([trial(rising, half_width=0.2)], accuracy=0.66, seconds=240) is None
    assert outlook([trial(rising, rungs=2)], accuracy=0.66, seconds=240) is None, "of two rungs nobody knows"
    assert outlook([trial(rising), trial(rising, rungs=2)], accuracy=0.66, seconds=240) is None, (
        "one member is not known"
    )


def test_an_ensemble_gains_what_its_members_do_on_average() -> None:
    found, one = (
        outlook([trial(rising), trial(lambda rung: 0.7)], accuracy=0.66, seconds=240),
        outlook([trial(rising)], accuracy=0.66, seconds=240),
    )
    assert found is not None
    assert one is not None
    assert found.gain == pytest.approx(one.gain / 2, rel=0.1)


def test_nothing_is_told_above_100_per_cent() -> None:
    found = outlook([trial(lambda rung: 1 - 0.5**rung, half_width=0.002)], accuracy=0.986, seconds=120)
    assert found is not None
    assert 0.986 + found.gain < 1


def test_it_is_said_in_a_line() -> None:
    found = outlook([trial(rising)], accuracy=0.66, seconds=240)
    assert found is not None
    line = in_words(found, Accuracy(mean=0.71, half_width=0.01, episodes=100, seed=0))
    assert line.startswith("accuracy was still rising: 16 min would give about 78 % (+ 6.5 ± ")
    assert len(line) <= 80
