"""The methods of the transfer benchmark, each as an Optuna sampler and the trials to enqueue before it.

Each is what its library offers with its own defaults. It knows nothing of tasks but their space and direction.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial
from transfer_tasks import Array, Cube, Distributions, Task, Values

from autometa.past import PastStudy

PORTFOLIO = 10


@dataclass(frozen=True)
class Start:
    """How a search starts: the configurations to try first, then the sampler."""

    sampler: BaseSampler
    enqueued: Sequence[Values] = ()


Method = Callable[[Task, Sequence[PastStudy], int], Start]


def random(task: Task, past: Sequence[PastStudy], seed: int) -> Start:
    return Start(RandomSampler(seed=seed))


def tpe(task: Task, past: Sequence[PastStudy], seed: int) -> Start:
    return Start(TPESampler(seed=seed))


def gp(task: Task, past: Sequence[PastStudy], seed: int) -> Start:
    return Start(GPSampler(seed=seed, deterministic_objective=True))


def cma_es(task: Task, past: Sequence[PastStudy], seed: int) -> Start:
    """Warm-started CMA-ES (Nomura et al. 2021). It pools all sources, so values are made ranks within each."""
    sign = 1 if task.direction == "maximize" else -1
    trials = [
        optuna.create_trial(params=values, distributions=task.distributions, value=-sign * regret)
        for study in past
        for values, regret in zip(_tried(study), _ranks(_results(study)), strict=True)
    ]
    return Start(CmaEsSampler(seed=seed, source_trials=trials))


def past_bests(task: Task, past: Sequence[PastStudy], seed: int) -> Start:
    """The best of each past study, in random order, then TPE."""
    bests = [dict(best.values) for best in (study.best() for study in past) if best is not None]
    order = np.random.default_rng(seed).permutation(len(bests))
    return Start(TPESampler(seed=seed), [bests[index] for index in order])


def portfolio(task: Task, past: Sequence[PastStudy], seed: int) -> Start:
    """Ten configurations chosen greedily so that on each past study one of them does well, then TPE."""
    return Start(TPESampler(seed=seed), greedy_portfolio(task, past, PORTFOLIO))


def cts(task: Task, past: Sequence[PastStudy], seed: int) -> Start:
    """Copula Thompson sampling (Salinas et al. 2020), which only minimises."""
    from syne_tune.optimizer.schedulers.single_objective_scheduler import SingleObjectiveScheduler
    from syne_tune.optimizer.schedulers.transfer_learning.quantile_based.quantile_based_searcher import (
        QuantileBasedSurrogateSearcher,
    )

    space = _syne_tune_space(task)
    searcher = QuantileBasedSurrogateSearcher(space, _evaluations(task, past), random_seed=seed)
    scheduler = SingleObjectiveScheduler(space, metric="loss", searcher=searcher, random_seed=seed)
    return Start(SyneTuneSampler(scheduler, task.distributions))


def bounding_box(task: Task, past: Sequence[PastStudy], seed: int) -> Start:
    """Random search in the box around the best of each past study (Perrone et al. 2019)."""
    from syne_tune.optimizer.baselines import RandomSearch
    from syne_tune.optimizer.schedulers.transfer_learning.bounding_box import BoundingBox

    def scheduler(space: dict[str, Any], metric: str, do_minimize: bool, random_seed: int) -> RandomSearch:
        return RandomSearch(space, [metric], do_minimize=do_minimize, random_seed=random_seed)

    with contextlib.redirect_stdout(io.StringIO()):  # it prints the box
        box = BoundingBox(scheduler, _syne_tune_space(task), "loss", _evaluations(task, past), random_seed=seed)
    return Start(SyneTuneSampler(box, task.distributions))


def prior(task: Task, past: Sequence[PastStudy], seed: int) -> Start:
    """What this repository adds."""
    from autometa.sampling.sampler import PriorSampler

    return Start(PriorSampler(past=list(past), seed=seed))


def prior_cold(task: Task, past: Sequence[PastStudy], seed: int) -> Start:
    """The same without any past study."""
    return prior(task, [], seed)


def with_other_seeds(method: Method) -> Method:
    """The same again: what differs is noise."""
    return lambda task, past, seed: method(task, past, seed + 500)


METHODS: dict[str, Method] = {
    "random": random,
    "tpe": tpe,
    "gp": gp,
    "cma-es": cma_es,
    "cts": cts,
    "bounding-box": bounding_box,
    "past-bests": past_bests,
    "portfolio": portfolio,
    "prior": prior,
    "prior-cold": prior_cold,
    "tpe-again": with_other_seeds(tpe),
    "prior-cold-again": with_other_seeds(prior_cold),
}


class SyneTuneSampler(BaseSampler):
    """A Syne Tune scheduler that proposes whole configurations and does not look at results."""

    def __init__(self, scheduler: Any, distributions: Distributions) -> None:
        self._scheduler = scheduler
        self._distributions = distributions

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        config = self._scheduler.suggest().config
        return {name: value.item() if isinstance(value, np.generic) else value for name, value in config.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        raise NotImplementedError("a scheduler proposes all parameters at once")


def greedy_portfolio(task: Task, past: Sequence[PastStudy], size: int) -> list[Values]:
    """Greedy choice by mean over past studies of the portfolio's best regret there.

    No past study tried what another tried, so a forest per study predicts what was not tried in it (and repeats
    what was: its trees are grown in full on all trials). Candidates are the best tenth of each.
    """
    from sklearn.ensemble import ExtraTreesRegressor

    cube = Cube(task.distributions)
    tried = [cube.to_unit(cube.points(_tried(study))) for study in past]
    regrets = [_regrets(_results(study)) for study in past]
    best = [np.argsort(regret)[: max(len(regret) // 10, 1)] for regret in regrets]
    candidates = np.concatenate([points[chosen] for points, chosen in zip(tried, best, strict=True)])
    predicted = np.stack(
        [
            ExtraTreesRegressor(30, random_state=0).fit(points, regret).predict(candidates)
            for points, regret in zip(tried, regrets, strict=True)
        ]
    )  # (study, candidate)
    chosen: list[int] = []
    reached = np.full(len(past), np.inf)
    for _ in range(size):
        chosen.append(int(np.minimum(predicted, reached[:, None]).mean(axis=0).argmin()))
        reached = np.minimum(reached, predicted[:, chosen[-1]])
    return [cube.values(point) for point in cube.from_unit(candidates[chosen])]


def _tried(study: PastStudy) -> list[Values]:
    return [dict(trial.values) for trial in study.trials]


def _results(study: PastStudy) -> Array:
    """Losses, in (trial,): smaller is better."""
    return np.array([-study.sign * trial.by_rung[study.rungs].value for trial in study.trials])


def _ranks(losses: Array) -> Array:
    return losses.argsort().argsort() / len(losses)


def _regrets(losses: Array) -> Array:
    return np.clip((losses - losses.min()) / (np.median(losses) - losses.min()), 0, 1)


def _syne_tune_space(task: Task) -> dict[str, Any]:
    from syne_tune import config_space

    kinds = {
        (FloatDistribution, False): config_space.uniform,
        (FloatDistribution, True): config_space.loguniform,
        (IntDistribution, False): config_space.randint,
        (IntDistribution, True): config_space.lograndint,
    }
    return {name: kinds[type(d), d.log](d.low, d.high) for name, d in task.distributions.items()}  # type: ignore[attr-defined]


def _evaluations(task: Task, past: Sequence[PastStudy]) -> dict[str, Any]:
    import pandas as pd
    from syne_tune.optimizer.schedulers.transfer_learning.transfer_learning_task_evaluation import (
        TransferLearningTaskEvaluations,
    )

    space = _syne_tune_space(task)
    return {
        study.name: TransferLearningTaskEvaluations(
            configuration_space=space,
            hyperparameters=pd.DataFrame(_tried(study)),
            objectives_names=["loss"],
            objectives_evaluations=_results(study).reshape(-1, 1, 1, 1),
        )
        for study in past
    }
