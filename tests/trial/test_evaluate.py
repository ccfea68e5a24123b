"""A measurement that has so many seconds ends with the first of the episodes that it would have had."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from autometa.data.episodes import EpisodeBatch
from autometa.trial.evaluate import measure_checkpoint
from autometa.trial.run import run
from autometa.trial.validation import within
from tests.trial.test_identity import job, photographs


def batches(seconds: float, count: int = 40) -> Iterator[EpisodeBatch]:
    """Of two episodes each, which take so long to draw."""
    for _ in range(count):
        time.sleep(seconds)
        x, y = torch.zeros(2, 1, 1, 1, 1), torch.zeros(2, 1, dtype=torch.long)
        yield EpisodeBatch(x, y, x, y, way=1)


def test_batches_are_over_by_the_end() -> None:
    started = time.monotonic()
    taken = sum(batch.batch for batch in within(batches(0.05), started + 0.5, fewest=2))
    assert 2 <= taken <= 20
    assert time.monotonic() - started < 0.6, "that one more would not be over in time is known from the last"


@pytest.mark.parametrize(("fewest", "taken"), [(0, 2), (5, 6), (1000, 80)])
def test_where_there_is_no_time_the_fewest_are_taken(fewest: int, taken: int) -> None:
    assert sum(batch.batch for batch in within(batches(0.0), time.monotonic() - 1, fewest=fewest)) == taken


def test_a_measurement_in_seconds_has_the_first_episodes(tmp_path: Path) -> None:
    photographs(tmp_path / "photos")
    run(job(tmp_path / "model", tmp_path / "photos"))
    whole = measure_checkpoint(tmp_path / "model", split="val", episodes=1200, seed=5).scores
    part = measure_checkpoint(tmp_path / "model", split="val", episodes=1200, seed=5, seconds=0.0).scores
    assert len(whole) == 1200
    assert 40 <= len(part) < 1200, "a thirtieth at least"
    first = whole.part(slice(len(part)))
    assert part.has_same_episodes(first)
    assert np.array_equal(part.answers, first.answers)
    plenty = measure_checkpoint(tmp_path / "model", split="val", episodes=1200, seed=5, seconds=600.0).scores
    assert plenty.has_same_episodes(whole)
