"""The study's books: states, live values, recovery, and nothing counted twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState, create_trial

from autometa import trial_attributes as attributes
from autometa.events import Event, RungReached, TrialEnded, TrialStarted, Warned
from autometa.hpo import study_record
from autometa.hpo.ledger import MAX_ATTEMPTS, Ledger, ended, record_of
from autometa.hpo.never_twice import NeverTwice
from autometa.hpo.pruning import make_pruner
from autometa.hpo.single_writer import SingleWriter
from autometa.hpo.storage import open_storage
from autometa.hpo.tried import Tried
from autometa.past import PastReport, PastStudy, PastTrial
from autometa.records import Accuracy, Budget, EpisodeSpec, RungReport, StudyRecord, TrialConfig, TrialRecord
from autometa.space.parameters import Choice, Range
from autometa.space.space import SearchSpace

SPACE = SearchSpace("s", (Choice("learner", ("a", "b")), Range("a.rate", 0.1, 1.0, when={"learner": ("a",)})))


def report(rung: int, mean: float) -> RungReport:
    accuracy = Accuracy(mean=mean, half_width=0.02, episodes=50, seed=4)
    return RungReport(rung=rung, accuracy=accuracy, steps=10 * rung, seconds=1.5 * rung)


def record(number: int, reason: str | None = None) -> TrialRecord:
    return TrialRecord(
        number=number,
        state="fail" if reason else "complete",
        config=TrialConfig(values={}),
        reason=reason,
        facts={"parameters": 12},
    )


@pytest.fixture
def storage() -> SingleWriter:
    return SingleWriter(InMemoryStorage())


@pytest.fixture
def study(storage: SingleWriter) -> optuna.Study:
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    sampler = optuna.samplers.RandomSampler(seed=3)
    return optuna.create_study(storage=storage, direction="maximize", sampler=sampler, pruner=pruner)


def make_ledger(study: optuna.Study, storage: SingleWriter, folder: Path, events: list[Event] | None = None) -> Ledger:
    on_event = (events if events is not None else []).append
    return Ledger(study, SPACE, storage=storage, rungs=3, seed=100, folder=folder, on_event=on_event)


def checkpoint(folder: Path, curve: list[RungReport]) -> None:
    folder.mkdir(parents=True)
    facts = {"format": "autometa-checkpoint/1", "curve": [r.model_dump() for r in curve]}
    (folder / "checkpoint.json").write_text(json.dumps(facts))


def test_every_report_is_in_the_study_when_it_is_made(
    study: optuna.Study, storage: SingleWriter, tmp_path: Path
) -> None:
    ledger = make_ledger(study, storage, tmp_path)
    asked = ledger.ask()
    assert asked.seed == 100
    ledger.report(asked.number, report(1, 0.4))
    assert study.trials[0].state == TrialState.RUNNING
    assert study.trials[0].intermediate_values == {1: 0.4}


def test_complete_pruned_and_fail_are_told_apart(study: optuna.Study, storage: SingleWriter, tmp_path: Path) -> None:
    events: list[Event] = []
    ledger = make_ledger(study, storage, tmp_path, events)
    good, bad, broken = ledger.ask(), ledger.ask(), ledger.ask()
    assert not ledger.report(good.number, report(1, 0.9))
    assert ledger.report(bad.number, report(1, 0.3))
    ledger.end(bad.number, record=None)
    for rung in (2, 3):
        ledger.report(good.number, report(rung, 0.9))
    ledger.end(good.number, record=record(good.number))
    ledger.end(broken.number, record=record(broken.number, "diverged: loss is nan at step 3"))
    assert [t.state.name for t in study.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert study.trials[0].value == 0.9
    assert attributes.FAIL_REASON.of(study.trials[2]) == "diverged: loss is nan at step 3"
    assert record_of(study.trials[0]).facts == {"parameters": 12}
    assert [type(e) for e in events].count(TrialEnded) == 3
    assert [type(e) for e in events].count(RungReached) == 4


def test_a_repeated_report_is_written_once(study: optuna.Study, storage: SingleWriter, tmp_path: Path) -> None:
    events: list[Event] = []
    ledger = make_ledger(study, storage, tmp_path, events)
    asked = ledger.ask()
    for _ in range(2):
        ledger.report(asked.number, report(1, 0.5))
    assert len(attributes.CURVE.of(study.trials[0], [])) == 1
    assert [type(e) for e in events].count(RungReached) == 1


def test_a_dead_drivers_trial_comes_back_with_its_values_seed_folder_and_curve(
    study: optuna.Study, storage: SingleWriter, tmp_path: Path
) -> None:
    dead = make_ledger(study, storage, tmp_path)
    asked = dead.ask()
    curve = [report(1, 0.4), report(2, 0.6)]
    checkpoint(tmp_path / asked.folder, curve)  # the last report had not reached the study
    dead.report(asked.number, curve[0])

    events: list[Event] = []
    alive = make_ledger(study, storage, tmp_path, events)
    assert alive.recover(died=True) == [asked.number]
    assert ended(study) == []
    again = alive.ask()
    assert (again.values, again.seed, again.folder) == (asked.values, asked.seed, asked.folder)
    assert again.number != asked.number
    assert study.trials[again.number].intermediate_values == {1: 0.4, 2: 0.6}
    started = next(e for e in events if isinstance(e, TrialStarted))
    assert (started.continues, started.rung) == (asked.number, 2)
    alive.report(again.number, report(3, 0.7))
    alive.end(again.number, record=record(again.number))
    assert [t.number for t in ended(study)] == [again.number]
    assert not study.get_trials(states=[TrialState.RUNNING, TrialState.WAITING])


def test_interrupted_trials_come_before_all_that_waits(
    study: optuna.Study, storage: SingleWriter, tmp_path: Path
) -> None:
    for rate in (0.2, 0.3, 0.4, 0.5):
        study.enqueue_trial({"learner": "a", "a.rate": rate})
    dead = make_ledger(study, storage, tmp_path)
    cut = [dead.ask(), dead.ask()]
    alive = make_ledger(study, storage, tmp_path)
    assert alive.recover(died=True) == [asked.number for asked in cut]
    again = [alive.ask() for _ in range(3)]
    assert [asked.folder for asked in again[:2]] == [asked.folder for asked in cut]
    assert [asked.values for asked in again[:2]] == [asked.values for asked in cut]
    assert again[2].values["a.rate"] == 0.4, "then the queue goes on where it was"
    # They go on though they had no checkpoint yet, so that no new trial takes the place of the second in a group.
    assert [(asked.goes_on, asked.rung) for asked in again] == [(True, 0), (True, 0), (False, 0)]
    assert [t.params["a.rate"] for t in study.get_trials(states=[TrialState.RUNNING])] == [0.4, 0.2, 0.3]


def test_a_driver_that_dies_between_taking_a_trial_and_writing_its_values_loses_neither(
    study: optuna.Study, storage: SingleWriter, tmp_path: Path
) -> None:
    study.enqueue_trial({"learner": "a", "a.rate": 0.37})
    study.ask()  # nothing was suggested, so nothing was written
    alive = make_ledger(study, storage, tmp_path)
    alive.recover(died=True)
    assert alive.ask().values == {"learner": "a", "a.rate": 0.37}


class Doing(RandomSampler):
    """A sampler that does something each time it has sampled."""

    def __init__(self, do: Callable[[], object]) -> None:
        super().__init__(seed=5)
        self._do = do

    def sample_independent(self, *about: Any) -> Any:
        value = super().sample_independent(*about)
        self._do()
        return value


def opened(url: str) -> tuple[optuna.Study, SingleWriter]:
    storage = SingleWriter(open_storage(url))
    study = optuna.create_study(study_name="s", storage=storage, direction="maximize", load_if_exists=True)
    return study, storage


def test_a_proposal_goes_by_its_number_though_others_add_to_the_queue_while_it_is_made(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    study, storage = opened(url)
    ledger = make_ledger(study, storage, tmp_path)
    first = ledger.ask()
    other = optuna.load_study(study_name="s", storage=open_storage(url))
    meanwhile = [{"learner": "a", "a.rate": 0.25}, {"learner": "b"}]
    study.sampler = Doing(lambda: other.enqueue_trial(meanwhile.pop()) if meanwhile else None)
    proposed = [ledger.ask()]
    queued = ledger.ask()
    proposed += [ledger.ask_like(first), ledger.ask()]
    assert not meanwhile
    asked = [first, queued, *proposed]
    assert [one.number for one in (first, queued)] == [0, 1]
    assert queued.values == {"learner": "b"}
    for one in asked:
        ledger.report(one.number, report(1, 0.1 * one.number))
    stored = other.get_trials()
    assert sorted(one.number for one in asked) == [t.number for t in stored if t.state == TrialState.RUNNING]
    for one in asked:
        found = stored[one.number]
        assert (one.seed, one.folder) == (100 + one.number, f"{one.number:05d}")
        assert (attributes.SEED.of(found), attributes.FOLDER.of(found)) == (one.seed, one.folder)
        assert (found.params, found.intermediate_values) == (one.values, {1: 0.1 * one.number})


def test_a_driver_that_dies_before_it_corrected_seed_and_folder_loses_neither_of_two_trials(
    study: optuna.Study, storage: SingleWriter, tmp_path: Path
) -> None:
    study.enqueue_trial({"learner": "b"})  # by somebody, just before the driver wrote the first trial
    ledger = make_ledger(study, storage, tmp_path)
    like_the_first = attributes.SEED.entry(100) | attributes.FOLDER.entry("00000")
    study.add_trial(create_trial(state=TrialState.RUNNING, user_attrs=like_the_first))
    ledger.recover(died=True)
    asked = [ledger.ask(), ledger.ask()]
    assert [(one.seed, one.folder) for one in asked] == [(101, "00001"), (100, "00000")]


def test_a_sampler_that_fails_leaves_no_trial(study: optuna.Study, storage: SingleWriter, tmp_path: Path) -> None:
    study.enqueue_trial({"learner": "a", "a.rate": 0.3})
    ledger = make_ledger(study, storage, tmp_path)
    first = ledger.ask()

    def fail() -> None:
        raise ZeroDivisionError

    study.sampler = Doing(fail)
    with pytest.raises(ZeroDivisionError):
        ledger.ask()
    with pytest.raises(ZeroDivisionError):
        ledger.ask_like(first)
    assert [t.number for t in study.trials] == ledger.running == [first.number]
    study.sampler = RandomSampler(seed=5)
    assert ledger.ask().number == 1


DYING = """
import sys
from pathlib import Path
from tests.hpo import test_ledger as here
study, storage = here.opened(sys.argv[1])
ledger = here.make_ledger(study, storage, Path("."))
ledger.ask()
study.sampler = here.Doing(lambda: here.os.kill(here.os.getpid(), here.signal.SIGKILL))
ledger.ask()
"""


def test_a_driver_that_is_killed_while_it_asks_leaves_no_half_of_a_trial(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", DYING, url], cwd=root, env={**os.environ, "PYTHONPATH": root})
    assert done.returncode == -signal.SIGKILL
    study, storage = opened(url)
    assert [t.number for t in study.trials] == [0]
    assert make_ledger(study, storage, tmp_path).ask().number == 1


def test_recovering_twice_enqueues_once(study: optuna.Study, storage: SingleWriter, tmp_path: Path) -> None:
    """As after a crash between the new entry and the closing of the old one."""
    ledger = make_ledger(study, storage, tmp_path)
    old = ledger.ask()
    study.enqueue_trial(old.values, user_attrs=attributes.CONTINUES.entry(old.number))
    ledger.recover(died=True)
    assert len(study.get_trials(states=[TrialState.WAITING])) == 1


def test_a_trial_that_dies_with_every_driver_is_given_up(
    study: optuna.Study, storage: SingleWriter, tmp_path: Path
) -> None:
    for _ in range(MAX_ATTEMPTS):
        ledger = make_ledger(study, storage, tmp_path)
        ledger.recover(died=True)
        ledger.ask()
    make_ledger(study, storage, tmp_path).recover(died=True)
    assert not study.get_trials(states=[TrialState.WAITING, TrialState.RUNNING])
    assert [attributes.FAIL_REASON.of(t) for t in ended(study)] == ["interrupted 3 times"]


def test_a_killed_driver_leaves_all_that_the_next_one_needs(tmp_path: Path) -> None:
    backend = InMemoryStorage()
    curve = [report(1, 0.4), report(2, 0.6)]
    for attempt in range(MAX_ATTEMPTS + 1):  # each driver knows what the storage and the checkpoints hold
        storage = SingleWriter(backend)
        study = optuna.create_study(study_name="s", storage=storage, direction="maximize", load_if_exists=True)
        ledger = make_ledger(study, storage, tmp_path)
        ledger.recover(died=True)
        if attempt == MAX_ATTEMPTS:
            break
        asked = ledger.ask()
        assert (asked.folder, asked.seed, asked.rung) == ("00000", 100, 2 if attempt else 0)
        if not attempt:
            checkpoint(tmp_path / asked.folder, curve)
            for one in curve:
                ledger.report(asked.number, one)
        running = optuna.load_study(study_name="s", storage=backend).trials[asked.number]
        assert (running.params, running.intermediate_values) == (asked.values, {1: 0.4, 2: 0.6})
    (given_up,) = [record_of(trial) for trial in ended(study)]
    assert (given_up.reason, given_up.curve) == ("interrupted 3 times", curve)


def test_a_damaged_checkpoint_does_not_keep_its_trial_from_being_given_up(
    study: optuna.Study, storage: SingleWriter, tmp_path: Path
) -> None:
    for _ in range(MAX_ATTEMPTS):
        make_ledger(study, storage, tmp_path).recover(died=True)
        asked = make_ledger(study, storage, tmp_path).ask()
    checkpoint(tmp_path / asked.folder, [])
    (tmp_path / asked.folder / "checkpoint.json").write_text("{")
    make_ledger(study, storage, tmp_path).recover(died=True)
    assert [t.user_attrs["fail_reason"] for t in ended(study)] == ["interrupted 3 times"]


def test_a_clean_interruption_is_not_an_attempt(study: optuna.Study, storage: SingleWriter, tmp_path: Path) -> None:
    for _ in range(2 * MAX_ATTEMPTS):
        ledger = make_ledger(study, storage, tmp_path)
        ledger.ask()
        ledger.recover(died=False)
    assert len(study.get_trials(states=[TrialState.WAITING])) == 1


def test_nothing_but_failures_is_hopeless(study: optuna.Study, storage: SingleWriter, tmp_path: Path) -> None:
    ledger = make_ledger(study, storage, tmp_path)
    for _ in range(6):
        assert ledger.hopeless_reason is None
        asked = ledger.ask()
        ledger.end(asked.number, record=record(asked.number, "out of GPU memory"))
    assert ledger.hopeless_reason == "out of GPU memory"


def test_the_prior_pruner_learns_from_the_past_and_reads_the_intervals(storage: SingleWriter, tmp_path: Path) -> None:
    def flat(index: int) -> PastTrial:
        return PastTrial({}, tuple(PastReport(rung, 0.02 * index + 0.01 * rung) for rung in (1, 2, 3)))

    past = [PastStudy(f"past {number}", tuple(flat(index) for index in range(30))) for number in range(3)]
    study = optuna.create_study(storage=storage, direction="maximize", pruner=make_pruner("prior", 3, past))
    ledger = make_ledger(study, storage, tmp_path)
    first = [ledger.ask() for _ in range(5)]
    for asked in first:
        ledger.report(asked.number, report(1, 0.5 + 0.05 * asked.number))
    last = ledger.ask()
    assert ledger.report(last.number, report(1, 0.2)), "who starts low stays low in all the past"
    ledger.end(last.number, record=None)
    assert study.trials[last.number].state == TrialState.PRUNED

    unsure = ledger.ask()
    wide = Accuracy(mean=0.2, half_width=0.9, episodes=1, seed=4)
    assert not ledger.report(unsure.number, RungReport(rung=1, accuracy=wide, steps=1, seconds=1.0))


def test_others_like_a_trial_share_all_but_its_continuous_values(
    study: optuna.Study, storage: SingleWriter, tmp_path: Path
) -> None:
    ledger = make_ledger(study, storage, tmp_path)
    study.enqueue_trial({"learner": "a", "a.rate": 0.3})
    study.enqueue_trial({"learner": "b"})
    first = ledger.ask()
    assert ledger.has_others_like(first)
    others = [ledger.ask_like(first) for _ in range(3)]
    assert [other.values["learner"] for other in others] == ["a"] * 3
    assert len({asked.values["a.rate"] for asked in (first, *others)}) == 4
    assert len({asked.seed for asked in (first, *others)}) == 4
    waiting = ledger.ask()
    assert waiting.values == {"learner": "b"}, "what waits in the queue is not taken for one of them"
    assert not ledger.has_others_like(waiting)
    for asked in (first, *others, waiting):
        frozen = study.trials[asked.number]
        assert frozen.state == TrialState.RUNNING
        assert frozen.params == asked.values
        assert frozen.distributions["learner"] == optuna.distributions.CategoricalDistribution(("a", "b"))
    assert {attributes.TOGETHER_WITH.of(study.trials[other.number]) for other in others} == {first.number}


def test_one_of_a_group_comes_back_like_any_other_trial(
    study: optuna.Study, storage: SingleWriter, tmp_path: Path
) -> None:
    dead = make_ledger(study, storage, tmp_path)
    study.enqueue_trial({"learner": "a", "a.rate": 0.3})
    other = dead.ask_like(dead.ask())
    checkpoint(tmp_path / other.folder, [report(1, 0.4)])
    alive = make_ledger(study, storage, tmp_path)
    alive.recover(died=True)
    asked = [alive.ask() for _ in range(2)]
    again = next(one for one in asked if one.folder == other.folder)
    assert (again.values, again.seed, again.rung) == (other.values, other.seed, 1)


def test_the_study_says_whether_workers_used_compiled_kernels(
    study: optuna.Study, storage: SingleWriter, tmp_path: Path
) -> None:
    about = StudyRecord(
        name="t",
        dataset="digits",
        dataset_fingerprint="f",
        episodes=EpisodeSpec(),
        space="s",
        space_version="1",
        budget=Budget(steps=9),
        seed=0,
        pruner="none",
        versions={"torch": "2"},
    )
    study_record.write(study, about)
    events: list[Event] = []
    ledger = make_ledger(study, storage, tmp_path, events)
    for said in (None, "used", "used", "not used: no compiler", "not used: no compiler"):
        ledger.ran_with(said)
    assert study_record.read(study).versions == {"torch": "2", "kernels": "not used: no compiler | used"}
    assert [e.message for e in events if isinstance(e, Warned)] == [
        "compiled kernels are not used: no compiler; training on a CPU is slower"
    ]
    make_ledger(study, storage, tmp_path).ran_with("used")  # a continuation
    assert study_record.read(study).versions["kernels"] == "not used: no compiler | used"


DEPTH = Range("a.depth", 1, 3, integer=True, when={"learner": ("a",)})
FINITE = SearchSpace("f", (Choice("learner", ("a", "b")), DEPTH))


def test_a_ledger_is_exhausted_when_each_configuration_is_a_trial_and_none_waits(
    study: optuna.Study, storage: SingleWriter, tmp_path: Path
) -> None:
    study.sampler = NeverTwice(study.sampler, Tried(study, FINITE), seed=2)
    ledger = Ledger(study, FINITE, storage=storage, rungs=3, seed=100, folder=tmp_path)
    study.enqueue_trial({"learner": "a", "a.depth": 2})
    asked = []
    while not ledger.is_exhausted:
        asked.append(ledger.ask().values)
    assert len(asked) == 4
    assert len({FINITE.key(values) for values in asked}) == 4
    study.enqueue_trial({"learner": "b"})
    assert not ledger.is_exhausted, "who asks for it gets it again"
    assert ledger.ask().values == {"learner": "b"}
    assert ledger.is_exhausted
    ledger.recover(died=False)
    assert not ledger.is_exhausted, "what was interrupted is still to be run, and is no repetition"
    assert FINITE.key(ledger.ask().values) == FINITE.key(asked[0])


def test_no_more_others_are_like_a_trial_than_there_are(
    study: optuna.Study, storage: SingleWriter, tmp_path: Path
) -> None:
    stepped = SearchSpace("s", (Choice("learner", ("a", "b")), Range("rate", 0.1, 0.3, step=0.1)))
    study.sampler = NeverTwice(study.sampler, Tried(study, stepped), seed=2)
    ledger = Ledger(study, stepped, storage=storage, rungs=3, seed=100, folder=tmp_path)
    group = [ledger.ask()]
    while ledger.has_others_like(group[0]):
        group.append(ledger.ask_like(group[0]))
    assert sorted(round(asked.values["rate"], 6) for asked in group) == [0.1, 0.2, 0.3]
    assert len({asked.values["learner"] for asked in group}) == 1
