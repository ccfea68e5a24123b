"""What workers do next: a segment that is late, since its step cannot be cut, holds up nobody."""

from __future__ import annotations

import time
from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage

from autometa.hpo.ledger import Asked
from autometa.hpo.open_ledger import OpenLedger
from autometa.hpo.promotion import Promotion
from autometa.hpo.single_writer import SingleWriter
from autometa.records import Budget
from autometa.study import desk as desk_module
from autometa.study.desk import SearchDesk
from autometa.trial.job import Job
from tests.hpo.test_ledger import SPACE, report
from tests.trial.test_segment import job


def test_a_segment_that_is_late_does_not_hold_up_the_last_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = SingleWriter(InMemoryStorage())
    study = optuna.create_study(storage=storage, direction="maximize", sampler=optuna.samplers.RandomSampler(seed=3))
    how = {"storage": storage, "rungs": None, "seed": 100, "folder": tmp_path, "on_event": lambda event: None}
    ledger = OpenLedger(study, SPACE, **how)

    def make_job(asked: Asked) -> Job:
        return job(tmp_path / asked.folder, Budget(seconds=1.0, open=True))

    end = time.monotonic() + 60.3
    policy = Promotion(finish_from=60.0, finalists=1)
    desk = SearchDesk(ledger, policy, end=end, make_job=make_job, on_last=lambda: None, on_end=lambda: None)
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
