"""What workers do next: which segment is the last training, and that none that is late holds it up."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage

from autometa.hpo.ledger import Asked
from autometa.hpo.open_ledger import OpenLedger
from autometa.hpo.promotion import Promotion
from autometa.hpo.single_writer import SingleWriter
from autometa.records import Budget, TrialRecord
from autometa.study import desk as desk_module
from autometa.study.desk import SearchDesk
from autometa.trial.job import Job
from tests.hpo.test_ledger import SPACE, report
from tests.trial.test_segment import job


def desk_with(folder: Path, *, seconds: float, make_job: Callable[[Asked], Job] | None = None) -> SearchDesk:
    """A desk whose search is over in so many seconds, of which the last training has 60."""
    storage = SingleWriter(InMemoryStorage())
    study = optuna.create_study(storage=storage, direction="maximize", sampler=optuna.samplers.RandomSampler(seed=3))
    how = {"storage": storage, "rungs": None, "seed": 100, "folder": folder, "on_event": lambda event: None}
    ledger, policy = OpenLedger(study, SPACE, **how), Promotion(finish_from=60.0, finalists=1)

    def prompt(asked: Asked) -> Job:
        return job(folder / asked.folder, Budget(seconds=1.0, open=True))

    return SearchDesk(
        ledger,
        policy,
        end=time.monotonic() + seconds,
        make_job=make_job or prompt,
        on_last=lambda: None,
        on_end=lambda: None,
    )


def test_a_segment_that_is_late_does_not_hold_up_the_last_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = desk_with(tmp_path, seconds=60.3)
    first, slow = desk.next(), desk.next()
    assert first
    assert slow
    desk.reported(first[0], report(1, 0.5))
    desk.ended(first[0], None)
    time.sleep(0.4)
    assert desk.next() is None  # the slow one may be the best
    monkeypatch.setattr(desk_module, "_LATE", 0.05)
    last = desk.next()
    assert last
    assert last[0] == first[0]
    assert last[1].finish_by is not None
    assert desk.is_over


def test_a_candidate_that_was_meant_to_be_tried_is_not_the_last_training(tmp_path: Path) -> None:
    """To propose it takes a while, in which the time for last trainings begins."""

    def slow(asked: Asked) -> Job:
        time.sleep(0.3)
        return job(tmp_path / asked.folder, Budget(seconds=1.0, open=True))

    desk = desk_with(tmp_path, seconds=60.2, make_job=slow)
    tried = desk.next()
    assert tried
    assert tried[1].finish_by is None
    assert not desk.is_over


def test_a_last_training_that_fails_leaves_its_place_to_another(tmp_path: Path) -> None:
    desk = desk_with(tmp_path, seconds=50.0)
    last = desk.next()
    assert last
    assert last[1].finish_by is not None
    assert desk.is_over
    failed = TrialRecord(number=last[0], state="fail", config=last[1].job.config, curve=[], reason="too large")
    desk.ended(last[0], failed)
    assert not desk.is_over
