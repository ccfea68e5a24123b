"""Halving that remembers its rungs decides as Optuna's, which looks at all trials each time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.pruners import BasePruner, SuccessiveHalvingPruner
from optuna.trial import Trial, TrialState, create_trial

from autometa.hpo.halving import HalvingPruner


def optunas(first: int, factor: int) -> BasePruner:
    return SuccessiveHalvingPruner(min_resource=first, reduction_factor=factor)


def ours(first: int, factor: int) -> BasePruner:
    return HalvingPruner(first=first, factor=factor)


def history(make: Callable[[], BasePruner], direction: str, *, restarts: bool) -> list[bool]:
    """What a pruner decides in a study of many ends: trials that wait, fail, are resumed, or come from elsewhere.

    Args:
        restarts: whether the driver is started again now and then; trials report every step then.
    """
    random = np.random.default_rng(7)
    study = optuna.create_study(direction=direction, pruner=make())
    live: dict[int, tuple[Trial, int]] = {}
    decisions: list[bool] = []
    for _ in range(4000):
        event = random.random()
        if event < 0.003 and restarts:  # what ran then goes on as another trial
            study.pruner = make()
            for trial, _ in live.values():
                study.tell(trial, state=TrialState.FAIL)
            live.clear()
        elif event < 0.03:
            study.enqueue_trial({})
        elif event < 0.04:
            study.add_trial(create_trial(state=TrialState.COMPLETE, value=0.5))
        elif event < 0.2 or not live:
            trial = study.ask()
            live[trial.number] = (trial, 0)
        else:
            number = int(random.choice(sorted(live)))
            trial, step = live[number]
            if event < 0.23:
                study.tell(trial, state=TrialState.FAIL)
                del live[number]
                continue
            # A trial that goes on after its driver died reports several rungs at once.
            step += 1 if restarts else int(random.integers(1, 4))
            # One decimal: ties; and what diverged.
            value = float("nan") if random.random() < 0.02 else round(float(random.normal(step / 20, 0.3)), 1)
            trial.report(value, step)
            decisions.append(trial.should_prune())
            live[number] = (trial, step)
            if decisions[-1] and (restarts or random.random() < 0.9):  # some go on all the same
                study.tell(trial, state=TrialState.PRUNED)
                del live[number]
            elif step > 20:
                study.tell(trial, 0.1)
                del live[number]
    return decisions


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize(("first", "factor"), [(2, 2), (1, 3), (3, 4)])
def test_it_decides_as_optunas_does(first: int, factor: int, direction: str, restarts: bool) -> None:
    mine = history(lambda: ours(first, factor), direction, restarts=restarts)
    assert mine == history(lambda: optunas(first, factor), direction, restarts=restarts)
    assert len(mine) > 2000
    assert 0.05 < np.mean(mine) < 0.9


def test_a_trial_that_did_not_report_goes_on() -> None:
    study = optuna.create_study(pruner=ours(1, 2))
    assert not study.ask().should_prune()


@pytest.mark.parametrize(("first", "factor"), [(0, 2), (2, 1)])
def test_what_cannot_halve_is_refused(first: int, factor: int) -> None:
    with pytest.raises(ValueError, match=f"first={first}, factor={factor}"):
        ours(first, factor)
