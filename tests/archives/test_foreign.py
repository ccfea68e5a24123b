"""Studies of others: their values come back in their own units, and what is broken is named."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from autometa.archives import foreign, read
from autometa.errors import AutometaError
from autometa.past import PastReport, PastTrial
from tests.archives.example_studies import LOSSES


def test_a_study_comes_back_as_it_was(tmp_path: Path) -> None:
    past = read.past_study(foreign.write(tmp_path, LOSSES))
    assert dataclasses.replace(past, trials=(), features={}) == dataclasses.replace(LOSSES, trials=(), features={})
    assert past.features == {"log_images": 6.5}, "what is no number is not kept"
    assert [(t.number, t.state) for t in past.trials] == [(4, "complete"), (5, "pruned"), (9, "fail")]
    assert [repr(t) for t in past.trials] == [repr(t) for t in LOSSES.trials], "types, rungs and NaN too"
    assert past.best() is past.trials[0]


@pytest.mark.parametrize(
    ("trial", "says"),
    [
        (PastTrial({"a": 1}, (PastReport(1, math.inf),), number=7), "trial 7: curve.0.value"),
        (PastTrial({"a": 1}, (PastReport(1, 0.5, -2.0),), number=8), "trial 8: curve.0.seconds"),
        (PastTrial({"a": math.nan}, number=3), "trial 3: config.values"),
        (PastTrial({"a": 1}, (PastReport(0, 0.5),), number=2), "trial 2: curve.0.rung"),
    ],
)
def test_what_cannot_be_kept_is_said_and_nothing_is_written(tmp_path: Path, trial: PastTrial, says: str) -> None:
    with pytest.raises(AutometaError) as caught:
        foreign.write(tmp_path, dataclasses.replace(LOSSES, trials=(*LOSSES.trials, trial)))
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


HEAD = 'format = "autometa-past/1"\nname = "x"\n'


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("study.toml", HEAD, "study.toml: direction"),
        ("study.toml", HEAD + 'direction = "up"', "study.toml: direction"),
        ("study.toml", HEAD + 'direction = "minimize"\nextra = 1', "study.toml: extra"),
        ("study.toml", HEAD + 'direction = "minimize"\n[ranges]\na = "os.system"', "a is no Optuna distribution"),
        ("study.toml", HEAD + 'direction = "minimize"\n[ranges]\na = "[1]"', "a is no Optuna distribution"),
        ("study.toml", 'format = "other/1"', "format is 'other/1'; it may be"),
        ("trials.jsonl", "[1]", "line 1"),
        ("trials.jsonl", "[" * 100_000, "line 1: not valid JSON"),
        ("trials.jsonl", '{"number": 0, "state": "won", "config": {"values": {}}}', "line 1: state"),
        (
            "trials.jsonl",
            '{"number": 0, "state": "pruned", "config": {"values": {}}, "curve": [{"rung": 1, "value": NaN}]}',
            "line 1: curve.0.value",
        ),
        (
            "trials.jsonl",
            '{"number": 0, "state": "pruned", "config": {"values": {}}, '
            '"curve": [{"rung": 2, "value": 1}, {"rung": 2, "value": 1}]}',
            "each rung once and in order, but got [2, 2]",
        ),
    ],
)
def test_a_broken_archive_is_named_by_file_and_field(tmp_path: Path, file: str, text: str, says: str) -> None:
    folder = foreign.write(tmp_path, LOSSES)
    (folder / file).write_text(text)
    with pytest.raises(AutometaError) as caught:
        read.past_study(folder)
    assert says in str(caught.value)
    assert str(folder / file) in str(caught.value)
    assert "\n" not in str(caught.value)
