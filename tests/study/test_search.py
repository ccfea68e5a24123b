"""The search itself, with real Ray workers and real training, small enough for a test."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import filelock
import optuna
import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState

import autometa
from autometa import trial_attributes as attributes
from autometa.archives import archive
from autometa.errors import ConfigError, StudyError
from autometa.events import Event, Warned
from autometa.hpo.ledger import ended
from autometa.hpo.storage import open_storage
from autometa.records import parse_budget
from tests.data.test_load import image_folder
from tests.study.conftest import SPACE, Start, command, environment


def trials(folder: Path) -> list[FrozenTrial]:
    file = folder / "runs" / "autometa.db"
    if not file.is_file():
        return []
    try:
        return optuna.load_study(study_name="t", storage=open_storage(f"sqlite:///{file}", create=False)).get_trials()
    except KeyError:
        return []


def wait_for(condition: Callable[[], bool], process: subprocess.Popen, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        assert process.poll() is None, "the search ended early"
        time.sleep(0.2)


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    """Those that train; there must be one."""

    def found() -> list[psutil.Process]:
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if "ray::ImplicitFunc" in " ".join(child.cmdline()[:1])]

    wait_for(lambda: bool(found()), process)
    return found()


def in_the_middle(folder: Path) -> bool:
    """One trial is over, and another has reported and not ended."""
    now = trials(folder)
    over = [t for t in now if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    half = [t for t in now if t.state == TrialState.RUNNING and t.intermediate_values]
    return bool(over and half)


def test_a_search_from_the_first_proposal_to_the_archive(folder: Path) -> None:
    result = autometa.search(
        "digits",
        space=folder / "tiny.toml",
        study="t",
        trials=8,
        budget=parse_budget("45"),
        seed=5,
        validation_episodes=20,
    )
    states = [t.state for t in result.trials]
    assert len(states) == 8
    assert "complete" in states
    assert "pruned" in states
    assert result.winner is not None
    assert result.winner.validation.low > 0.2, "clearly above chance"
    assert result.winner.selection is not None
    assert result.winner.selection.episodes + result.winner.validation.episodes == 600
    assert result.winner.test is not None
    assert result.winner.selection.mean == max(c.chosen_by.mean for c in result.study.confirmed)
    for measured in (result.winner.validation, result.winner.test):
        assert measured.over_classes is not None
        assert (measured.over_classes.classes, measured.over_classes.families) == (8, 2), "two digits, four turns each"
    assert {(c.source, c.other) for c in result.comparisons} == {
        (result.winner.source, c.source) for c in result.study.confirmed if c.source != result.winner.source
    }
    assert [(look.what, look.number) for look in result.study.looks] == [
        (f"search t, {result.winner.source}", result.winner.test.look)
    ]
    assert result.study.looks[0] in autometa.test_looks("digits")
    assert [c.test is not None for c in result.study.confirmed].count(True) == 1, "meta-test is touched once"

    past = archive.read(folder / "runs" / "studies" / "t")
    assert len(past.trials) == 8
    assert past.study.versions["kernels"].startswith(("used", "not used: "))
    assert past.study.features["channels"] == 1
    assert past.study.space_version == result.study.space_version
    complete = next(t for t in past.trials if t.state == "complete")
    assert [r.rung for r in complete.curve] == list(range(1, 10))
    assert not (folder / "runs" / "t" / "tune").exists()

    again = autometa.search(
        "digits", space=folder / "tiny.toml", study="t", trials=8, budget=parse_budget("45"), seed=5
    )
    assert again.winner == result.winner, "a finished search runs and measures nothing again"
    with pytest.raises(StudyError, match="exists with another seed"):
        autometa.search("digits", space=folder / "tiny.toml", study="t", trials=8, seed=6)
    with pytest.raises(StudyError, match=r"exists with another (dataset|episodes)"):
        autometa.search("digits", space=folder / "tiny.toml", study="t", trials=8, seed=5, way=4)


def test_a_folder_with_faults_is_searched_and_the_faults_are_told(folder: Path) -> None:
    photos = image_folder(folder / "photos", classes=12)
    (photos / "class5" / "note.png").write_text("not an image")
    shutil.copy(photos / "class4" / "0.png", photos / "class4" / "again.png")
    told: list[Event] = []
    result = autometa.search(
        str(photos),
        space=folder / "tiny.toml",
        way=2,
        query=2,
        trials=1,
        budget=parse_budget("3"),
        skip_unreadable=True,
        validation_episodes=10,
        on_event=told.append,
    )
    assert [trial.state for trial in result.trials] == ["complete"], "its worker leaves out the same file"
    assert result.study.dataset_facts["unreadable"] == 1
    assert result.study.dataset_facts["image_size"] == 12
    notes = [event.message for event in told if isinstance(event, Warned)]
    assert f"{photos}: 1 image is twice in a class" in notes[0]


def test_a_search_that_is_extended_counts_each_winner_that_was_tested(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOMETA_HOME", str(folder / "home"))
    how = {"space": folder / "tiny.toml", "study": "t", "budget": parse_budget("18"), "workers": 1, "seed": 2}
    how |= {"cold": True}
    before = autometa.search("digits", trials=1, validation_episodes=20, **how)
    found = autometa.search("digits", trials=3, validation_episodes=20, confirm_seeds=2, **how)
    assert before.winner is not None
    assert found.winner is not None
    again = found.winner.retrained
    assert again is not None
    assert again.test is not None
    assert again.test.over_classes is not None
    assert again.test.over_classes.seeds == len(again.seeds) == 2
    assert all(c.retrained for c in found.study.confirmed if c.trial is not None), "all finalists get other seeds"
    models = {look.model for look in found.study.looks}
    assert models == {look.model for look in autometa.test_looks("digits")}
    assert len(models) == again.test.look == 3 + (found.winner.trial != before.winner.trial)
    same = autometa.search("digits", trials=3, confirm_seeds=2, **how)
    assert same.winner == found.winner, "nothing is trained or tested again"
    assert len(autometa.test_looks("digits")) == len(found.study.looks)


def test_the_same_seed_and_one_worker_give_the_same_search(folder: Path) -> None:
    found = []
    for name in ("a", "b"):
        (folder / name).mkdir()
        result = autometa.search(
            "digits",
            space=folder / "tiny.toml",
            trials=4,
            budget=parse_budget("18"),
            workers=1,
            seed=3,
            runs=folder / name / "runs",
            archives=folder / name / "studies",
            validation_episodes=20,
        )
        found.append([(t.config, t.state, [(r.rung, r.accuracy, r.steps) for r in t.curve]) for t in result.trials])
        found[-1].append(result.winner)
    assert found[0] == found[1]


def test_a_driver_killed_in_the_middle_loses_nothing(folder: Path, start: Start) -> None:
    """And with more first proposals in the queue than trials are left: what was interrupted comes before them."""
    entry = '[[start]]\nlearner = "prototypical"\nbackbone = "conv"\n"conv.depth" = 1\n"conv.width" = 4\nouter_lr = '
    (folder / "tiny.toml").write_text("\n".join([SPACE, *(f"{entry}{0.001 * rate}" for rate in range(1, 6))]))
    arguments = command("--trials", "3", "--budget", "225", "--cold", "--pruner", "none", "--workers", "1")
    first = start(arguments)
    wait_for(lambda: in_the_middle(folder), first)
    first.send_signal(signal.SIGKILL)
    first.wait()
    before = trials(folder)
    over = {t.number: (t.state, t.values, t.intermediate_values) for t in before if t.state != TrialState.RUNNING}
    cut = {t.number for t in before if t.state == TrialState.RUNNING}
    assert cut

    second = subprocess.run(arguments, cwd=folder, env=environment(), capture_output=True, text=True, timeout=400)
    assert second.returncode == 0, second.stderr
    after = trials(folder)
    assert not [t for t in after if t.state == TrialState.RUNNING]
    waiting = [t for t in after if t.state == TrialState.WAITING]
    assert waiting, "or the queue was too short to show anything"
    assert not [t for t in waiting if attributes.CONTINUES.of(t) is not None]
    for number, facts in over.items():
        if facts[0] != TrialState.WAITING:
            assert (after[number].state, after[number].values, after[number].intermediate_values) == facts
    study = optuna.load_study(study_name="t", storage=f"sqlite:///{folder / 'runs' / 'autometa.db'}")
    assert len(ended(study)) == 3, "interrupted trials are counted once"
    continued = {attributes.CONTINUES.of(t): t for t in after if attributes.CONTINUES.of(t) is not None}
    assert set(continued) == cut
    with_curve = [n for n in cut if before[n].intermediate_values]
    assert with_curve
    for number in with_curve:
        old, new = before[number], continued[number]
        assert new.params == old.params
        assert old.intermediate_values.items() <= new.intermediate_values.items(), "it went on from its checkpoint"
        assert f"continues trial {number} from rung" in second.stdout


def test_trials_trained_together_are_trials_of_their_own(folder: Path) -> None:
    result = autometa.search(
        "digits",
        space=folder / "tiny.toml",
        study="t",
        trials=7,
        budget=parse_budget("45"),
        workers=1,
        vectorise=3,
        seed=5,
        validation_episodes=20,
        cold=True,
    )
    assert len(result.trials) == 7
    states = [trial.state for trial in result.trials]
    assert {"complete", "pruned"} == set(states)
    groups: dict[int, list[FrozenTrial]] = {}
    for trial in trials(folder):
        groups.setdefault(attributes.TOGETHER_WITH.of(trial, trial.number), []).append(trial)
    assert sorted(len(group) for group in groups.values()) == [1, 3, 3]
    for group in groups.values():
        assert len({json.dumps({**t.params, "outer_lr": None}, sort_keys=True) for t in group}) == 1
        assert len({t.params["outer_lr"] for t in group}) == len(group)
    for trial in trials(folder):
        rungs = sorted(trial.intermediate_values)
        assert rungs == list(range(1, len(rungs) + 1))
        assert (len(rungs) == 9) == (trial.state == TrialState.COMPLETE)
    cut = [{len(t.intermediate_values) for t in group} for group in groups.values() if len(group) > 1]
    assert any(len(lengths) > 1 for lengths in cut), "one was pruned and its neighbours went on"
    assert result.winner is not None


@pytest.mark.parametrize("killed", ["driver", "worker"])
def test_a_group_that_is_killed_loses_nothing(folder: Path, start: Start, killed: str) -> None:
    arguments = command(
        "--trials", "3", "--budget", "1800", "--pruner", "none", "--vectorise", "3", "--workers", "1", "--cold"
    )
    process = start(arguments)
    wait_for(lambda: all(t.intermediate_values for t in trials(folder)) and len(trials(folder)) == 3, process)
    before = {attributes.FOLDER.required_of(t): t.intermediate_values for t in trials(folder)}
    if killed == "driver":
        process.send_signal(signal.SIGKILL)
        process.wait()
        second = subprocess.run(arguments, cwd=folder, env=environment(), capture_output=True, text=True, timeout=400)
        assert second.returncode == 0, second.stderr
    else:
        (worker,) = workers_of(process)
        worker.kill()
        assert process.wait(timeout=400) == 0
    over = {attributes.FOLDER.required_of(t): t for t in trials(folder) if not attributes.INTERRUPTED.of(t)}
    assert [t.state for t in over.values()] == [TrialState.COMPLETE] * 3
    for name, seen in before.items():
        assert seen.items() <= over[name].intermediate_values.items()
        assert sorted(over[name].intermediate_values) == list(range(1, 10))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_cleanly_and_says_how_to_go_on(folder: Path, start: Start, number: signal.Signals) -> None:
    arguments = command("--trials", "5", "--budget", "900")
    process = start(arguments)
    wait_for(lambda: in_the_middle(folder), process)
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 130
    assert "the same command continues it" in output.splitlines()[-1]
    assert not [t for t in trials(folder) if t.state == TrialState.RUNNING]
    assert [t for t in trials(folder) if t.state == TrialState.WAITING]


def test_a_killed_worker_costs_its_trial_nothing_but_time(folder: Path, start: Start) -> None:
    arguments = command("--trials", "3", "--budget", "900", "--pruner", "none")
    process = start(arguments)
    wait_for(lambda: any(t.intermediate_values for t in trials(folder)), process)
    workers_of(process)[0].kill()
    assert process.wait(timeout=400) == 0
    after = trials(folder)
    assert [t.state for t in after] == [TrialState.COMPLETE] * 3
    assert all(sorted(t.intermediate_values) == list(range(1, 10)) for t in after)


def test_a_diverging_trial_fails_with_its_reason_and_the_search_goes_on(folder: Path) -> None:
    text = SPACE.replace("low = 1e-3\nhigh = 1e-2\nlog = true", "choices = [1e-2, 1e37]")
    for name, only in (("optimizer", "sgd"), ("norm", "none"), ("clip_norm", 1e37)):
        text += f"[parameters.{name}]\nchoices = [{json.dumps(only)}]\n"
    common = {"backbone": "conv", "conv.depth": 1, "conv.width": 4, "optimizer": "sgd", "clip_norm": 1e37}
    common |= {"norm": "none"}
    for rate in (1e37, 1e-2):
        values = {"learner": "pretrain", **common, "outer_lr": rate}
        text += "\n[[start]]\n" + "\n".join(f"{k!r} = {json.dumps(v)}" for k, v in values.items())
    (folder / "tiny.toml").write_text(text)
    result = autometa.search(
        "digits", space=folder / "tiny.toml", study="t", trials=2, budget=parse_budget("18"), validation_episodes=20
    )
    states = {t.config.values["outer_lr"]: (t.state, t.reason) for t in result.trials}
    assert states[1e37][0] == "fail"
    assert "diverged" in str(states[1e37][1])
    assert states[1e-2] == ("complete", None)
    assert result.winner is not None


def test_a_full_disk_under_the_checkpoints_stops_the_search_and_the_same_command_continues(
    folder: Path, small_disk: Callable[[Path, str], None]
) -> None:
    disk = folder / "runs" / "t" / "trials"
    small_disk(disk, "size=160k")
    arguments = command("--trials", "4", "--budget", "27", "--pruner", "none", "--cold")
    full = subprocess.run(arguments, cwd=folder, env=environment(), capture_output=True, text=True, timeout=400)
    assert full.returncode == 2
    *_, line = full.stderr.strip().splitlines()
    assert re.match(r"error: study '\S+' stopped: no checkpoint can be written to ", line)
    assert "no space left on the disk" in line
    assert line.endswith("the same command continues")
    assert "Traceback" not in full.stderr
    left = [t for t in trials(folder) if t.state == TrialState.WAITING and attributes.CONTINUES.of(t) is not None]
    assert left
    assert all(attributes.INTERRUPTED.of(t) for t in trials(folder) if t.state == TrialState.FAIL)

    small_disk(disk, "size=20m")
    again = subprocess.run(arguments, cwd=folder, env=environment(), capture_output=True, text=True, timeout=400)
    assert again.returncode == 0, again.stderr
    after = trials(folder)
    assert {t.state for t in after} == {TrialState.COMPLETE, TrialState.FAIL}
    assert [t.state for t in after].count(TrialState.COMPLETE) == 4


def test_a_search_ends_when_all_of_a_small_space_was_tried_and_says_so(folder: Path) -> None:
    (folder / "two.toml").write_text(
        'name = "two"\n[parameters.backbone]\nchoices = ["conv"]\n[parameters."conv.depth"]\nchoices = [1]\n'
        '[parameters."conv.width"]\nchoices = [4, 8]\n'
    )
    arguments = command("--space", "two.toml", "--trials", "5", "--budget", "9", "--cold")
    for _ in range(2):
        done = subprocess.run(arguments, cwd=folder, env=environment(), capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr
        said = [line for line in done.stdout.splitlines() if "no configuration that was not tried" in line]
        assert len(said) == 1
        assert said[0].endswith("the space two has no configuration that was not tried: the search ends with 2 trials")
        assert "wait for more time" not in done.stdout
        assert sorted(trial.params["conv.width"] for trial in trials(folder)) == [4, 8]


def test_a_second_driver_is_turned_away(folder: Path) -> None:
    (folder / "runs" / "t").mkdir(parents=True)
    with filelock.FileLock(folder / "runs" / "t" / "lock"), pytest.raises(StudyError, match="another process"):
        autometa.search("digits", space=folder / "tiny.toml", study="t", trials=1)


def test_a_gpu_that_is_not_there_is_one_line_and_nothing_is_written(folder: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match="--gpus-per-trial 1: there are 0 GPUs"):
        autometa.search("digits", space=folder / "tiny.toml", gpus_per_trial=1)
    assert not (folder / "runs").exists()


def test_the_budget_of_a_trial_fits_the_time_given(folder: Path) -> None:
    from autometa.orchestrator.cluster import Share
    from autometa.study.planning import make_plan
    from autometa.study.records_of_plan import trial_budget
    from autometa.study.search_settings import SearchSettings

    settings = SearchSettings(
        "digits", space=folder / "tiny.toml", trials=10, time_budget=600, storage="sqlite:///x.db"
    )
    plan = make_plan(settings, runs=folder, validation_episodes=20)
    budget = trial_budget(plan, Share(workers=2, gpus=0))
    assert budget.seconds is not None
    assert 0.5 * 600 < 10 * 0.65 * budget.seconds / 2 < 600
    endless = make_plan(dataclasses.replace(settings, time_budget=None), runs=folder, validation_episodes=20)
    assert trial_budget(endless, Share(workers=2, gpus=0)).steps == 300


def test_a_cluster_that_is_not_there_is_one_line_at_once(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no Ray cluster at 127\.0\.0\.1:9: Connection refused"):
        autometa.search("digits", space=folder / "tiny.toml", study="t", address="127.0.0.1:9")
    assert not (folder / "runs" / "t").exists()


def test_two_processes_may_make_the_storage_at_once(folder: Path) -> None:
    code = "from autometa.hpo.storage import open_storage; open_storage('sqlite:///both.db')"
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=folder, env=environment()) for _ in range(3)]
    assert [process.wait(timeout=60) for process in both] == [0, 0, 0]
