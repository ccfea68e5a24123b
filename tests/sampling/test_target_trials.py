"""A target that is read trial by trial is what it would be if it was read at once."""

from __future__ import annotations

import numpy as np
import optuna
from optuna.trial import TrialState

from autometa.sampling.encoding import Domain
from autometa.sampling.target_trials import TargetTrials
from autometa.space.parameters import Choice, Range
from autometa.space.space import SearchSpace
from autometa.trial_attributes import CURVE

SPACE = SearchSpace("s", (Choice("learner", ("a", "b")), Range("a.rate", 0.1, 1.0, when={"learner": ("a",)})))
DOMAIN = Domain.of_space(SPACE)


def report(rung: int, mean: float) -> dict[str, object]:
    return {"rung": rung, "accuracy": {"mean": mean, "half_width": 0.01 * rung}}


def test_it_grows_with_the_study() -> None:
    random = np.random.default_rng(3)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=1))
    growing = TargetTrials()
    steps = 0
    for number in range(60):
        trial = study.ask()
        SPACE.suggest(trial)
        steps = max(steps, number // 12)  # a rung that nobody reached before comes in
        curve = []
        for step in range(1, steps + 2):
            value = float("nan") if random.random() < 0.05 else float(random.random())
            trial.report(value, step)
            curve.append(report(step, value))
            CURVE.write(trial, curve)
            trials = study.get_trials(deepcopy=False)
            for sign in (1.0, -1.0):
                grown, fresh = growing.results(trials, sign), TargetTrials().results(trials, sign)
                assert np.array_equal(grown.values, fresh.values, equal_nan=True)
                assert np.array_equal(grown.half_widths, fresh.half_widths, equal_nan=True)
            assert np.array_equal(growing.codes(trials, DOMAIN), TargetTrials().codes(trials, DOMAIN), equal_nan=True)
        state = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, None)[int(random.integers(4))]
        if state:
            study.tell(trial, 0.5 if state == TrialState.COMPLETE else None, state=state)


def test_failed_trials_are_as_bad_as_the_worst() -> None:
    study = optuna.create_study(direction="minimize")
    for value in (0.3, 0.9, None):
        trial = study.ask()
        if value is None:
            study.tell(trial, state=TrialState.FAIL)
        else:
            trial.report(value, 4)
            study.tell(trial, value)
    results = TargetTrials().results(study.trials, -1.0)
    assert results.values.tolist() == [[-0.3], [-0.9], [-0.9]]


def test_nothing_yet() -> None:
    target = TargetTrials()
    assert target.codes([], DOMAIN).shape == (0, 2)
    assert target.results([], 1.0).values.shape == (0, 1)
