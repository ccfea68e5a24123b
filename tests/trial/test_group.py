"""A group of trials leaves what each would have left alone: checkpoints, curves and records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from autometa.errors import StopSearchError
from autometa.records import Budget, EpisodeSpec, RungReport, TrialConfig, TrialRecord
from autometa.trial import group
from autometa.trial.group import run_group
from autometa.trial.job import DatasetRef, Job
from autometa.trial.run import run

SMALL = {"backbone": "conv", "conv.depth": 2, "conv.width": 4, "optimizer": "sgd"}


def jobs(folder: Path, rates: tuple[float, ...] = (1e-3, 1e-2, 3e-2), **values: Any) -> dict[int, Job]:
    return {
        number: Job(
            config=TrialConfig(values={**SMALL, **values, "outer_lr": rate}),
            dataset=DatasetRef(name="digits"),
            episodes=EpisodeSpec(way=3, shot=1, query=4),
            budget=Budget(steps=6, rungs=3),
            seed=40 + number,
            folder=str(folder / str(number)),
            validation_episodes=10,
        )
        for number, rate in enumerate(rates, 5)
    }


class Driver:
    """Notes what it is told, and stops trials at a rung."""

    def __init__(self, stops: dict[int, int] | None = None) -> None:
        self.stops = stops or {}
        self.started: list[int] = []
        self.reports: dict[int, list[RungReport]] = {}
        self.records: dict[int, TrialRecord] = {}

    def on_rung(self, number: int, report: RungReport) -> bool:
        self.reports.setdefault(number, []).append(report)
        return self.stops.get(number) == report.rung

    def on_end(self, record: TrialRecord) -> None:
        assert record.number not in self.records
        self.records[record.number] = record


def carried_out(of: dict[int, Job], stops: dict[int, int] | None = None) -> Driver:
    driver = Driver(stops)
    run_group(of, on_start=driver.started.append, on_rung=driver.on_rung, on_end=driver.on_end)
    return driver


def tensors(job: Job) -> dict[str, Tensor]:
    (file,) = Path(job.folder).glob("*.safetensors")
    return {name: tensor for name, tensor in load_file(file).items() if not name.startswith("generator/global")}


def without_seconds(curve: list[RungReport]) -> list[tuple[int, int, object]]:
    return [(report.rung, report.steps, report.accuracy) for report in curve]


# One that is trained as one model, and one that cannot be.
@pytest.mark.parametrize("values", [{"learner": "prototypical"}, {"learner": "anil", "norm": "support"}])
def test_a_group_leaves_what_each_would_have_left_alone(tmp_path: Path, values: dict[str, Any]) -> None:
    alone = {number: run(job, number=number) for number, job in jobs(tmp_path / "alone", **values).items()}
    together = carried_out(jobs(tmp_path / "together", **values))
    assert sorted(together.started) == sorted(alone)
    for number, job in jobs(tmp_path / "together", **values).items():
        single, record = alone[number], together.records[number]
        assert (record.state, record.facts, record.config) == (single.state, single.facts, single.config)
        assert without_seconds(record.curve) == without_seconds(single.curve)
        assert without_seconds(together.reports[number]) == without_seconds(single.curve)
        expected = tensors(jobs(tmp_path / "alone", **values)[number])
        found = tensors(job)
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert (found[name].double() - tensor.double()).abs().max() < 1e-4 if tensor.numel() else True, name


def test_nobody_of_a_group_that_can_be_one_model_is_trained_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "run", None)
    driver = carried_out(jobs(tmp_path))
    assert [record.state for record in driver.records.values()] == ["complete"] * 3


def test_who_is_stopped_leaves_a_checkpoint_and_no_record(tmp_path: Path) -> None:
    three = jobs(tmp_path)
    driver = carried_out(three, {6: 1, 7: 2})
    assert sorted(driver.records) == [5]
    assert {number: len(reports) for number, reports in driver.reports.items()} == {5: 3, 6: 1, 7: 2}
    resumed = run(three[6], number=6)
    straight = run(jobs(tmp_path / "alone")[6], number=6)
    assert without_seconds(resumed.curve) == without_seconds(straight.curve)


@pytest.mark.parametrize("learner", ["prototypical", "anil"])
def test_a_group_that_died_goes_on_from_its_checkpoints(tmp_path: Path, learner: str) -> None:
    class DiedError(Exception):
        pass

    class Dying(Driver):
        def on_rung(self, number: int, report: RungReport) -> bool:
            if (number, report.rung) == (6, 2):  # after the first of the group has its second checkpoint
                raise DiedError
            return super().on_rung(number, report)

    values = {"learner": learner, "norm": "support"}
    driver = Dying()
    with pytest.raises(DiedError):
        run_group(
            jobs(tmp_path, **values), on_start=driver.started.append, on_rung=driver.on_rung, on_end=driver.on_end
        )
    straight = carried_out(jobs(tmp_path / "straight", **values))
    again = carried_out(jobs(tmp_path, **values))
    for number, record in straight.records.items():
        assert without_seconds(again.records[number].curve) == without_seconds(record.curve)


def test_one_that_diverges_fails_alone(tmp_path: Path) -> None:
    rates = (1e-3, 1e37, 3e-2)
    driver = carried_out(jobs(tmp_path, rates, norm="none", clip_norm=1e37))
    assert {number: record.state for number, record in driver.records.items()} == {
        5: "complete",
        6: "fail",
        7: "complete",
    }
    assert str(driver.records[6].reason).startswith("diverged: loss is")


def test_one_that_cannot_be_carried_out_fails_alone(tmp_path: Path) -> None:
    three = jobs(tmp_path)
    three[6] = three[6].model_copy(update={"config": TrialConfig(values={**SMALL, "outer_lr": -1.0})})
    driver = carried_out(three)
    assert {number: record.state for number, record in driver.records.items()} == {
        5: "complete",
        6: "fail",
        7: "complete",
    }
    assert "outer_lr = -1.0" in str(driver.records[6].reason)


@pytest.mark.parametrize("rates", [(1e-3,), (1e-3, 1e-2, 3e-2)], ids=["alone", "together"])
def test_a_full_disk_ends_no_trial_and_each_goes_on_from_the_checkpoint_it_has(
    tmp_path: Path, small_disk: Callable[[Path, str], None], rates: tuple[float, ...]
) -> None:
    """A checkpoint is written beside the one before, so a disk for one and a half fails at the second rung."""
    whole = jobs(tmp_path / "whole", rates)
    alone = {number: run(job, number=number) for number, job in whole.items()}
    (file,) = Path(whole[5].folder).glob("*.safetensors")
    disk = tmp_path / "disk"
    small_disk(disk, f"size={int((len(rates) + 0.5) * (file.stat().st_size + 8192)) // 4096 * 4}k")
    driver = Driver()
    with pytest.raises(StopSearchError, match=r"no checkpoint can be written to .*: no space left on the disk"):
        run_group(jobs(disk, rates), on_start=driver.started.append, on_rung=driver.on_rung, on_end=driver.on_end)
    assert not driver.records
    assert 0 < len(driver.reports) <= len(rates)

    small_disk(disk, "size=20m")
    again = carried_out(jobs(disk, rates))
    for number, record in again.records.items():
        assert record.state == "complete"
        assert without_seconds(record.curve) == without_seconds(alone[number].curve)
