"""A sampler that proposes no configuration which its study has already.

Whoever puts one into the queue again gets it again: what is fixed is not asked of a sampler.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from autometa.hpo.tried import Tried
from autometa.records import Scalar

# How often the sampler is asked again, and how often chance after it, before the space is gone through in order.
_ASKS = 8


class NeverTwice(BaseSampler):
    """Another sampler, asked again where it proposes what was tried; for one study.

    The whole configuration is drawn when the first parameter is asked for, and handed out one by one. Where the
    sampler insists, chance proposes; where chance does too, the first configuration in the space's order that was not
    tried. `Tried.is_all` says before whether there is one.
    """

    def __init__(self, sampler: BaseSampler, tried: Tried, *, seed: int) -> None:
        self._sampler = sampler
        self._tried = tried
        self._seed = seed
        self._number: int | None = None
        self._values: Mapping[str, Any] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is proposed before it is known to be needed."""
        self._number = None
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """This parameter's part of the configuration."""
        if self._number != trial.number:
            self._number, self._values = trial.number, self._new(study, trial)
        if param_name not in self._values:
            return self._sampler.sample_independent(study, trial, param_name, param_distribution)
        return self._values[param_name]

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._sampler.reseed_rng()

    def _new(self, study: Study, trial: FrozenTrial) -> Mapping[str, Any]:
        """A configuration that was not tried; if all with the trial's fixed values were, the last one drawn."""
        fixed = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        drawn: Mapping[str, Any] = {}
        for sampler in self._sources(trial.number):
            drawn = self._tried.space.suggest(_Draft(sampler, study, trial, fixed))
            if drawn not in self._tried:
                return drawn
        return self._tried.other(fixed) or drawn

    def _sources(self, number: int) -> Iterator[BaseSampler]:
        for _ in range(_ASKS):
            yield self._sampler
        chance = RandomSampler(seed=self._seed + number)
        for _ in range(_ASKS):
            yield chance


class _Draft:
    """What looks like a trial to a space: a sampler answers, and nothing is written."""

    def __init__(self, sampler: BaseSampler, study: Study, trial: FrozenTrial, fixed: Mapping[str, Scalar]) -> None:
        self._sampler, self._study, self._trial = sampler, study, trial
        together = sampler.infer_relative_search_space(study, trial)
        self._values = {**sampler.sample_relative(study, trial, together), **fixed}

    def suggest_categorical(self, name: str, choices: list[Scalar]) -> Any:
        return self._asked(name, CategoricalDistribution(choices))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> Any:
        return self._asked(name, IntDistribution(low, high, log=log, step=step))

    def suggest_float(self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False) -> Any:
        return self._asked(name, FloatDistribution(low, high, log=log, step=step))

    def _asked(self, name: str, distribution: BaseDistribution) -> Any:
        if name in self._values:
            return self._values[name]
        if distribution.single():
            return _only_value(distribution)
        return self._sampler.sample_independent(self._study, self._trial, name, distribution)


def _only_value(distribution: Any) -> Any:
    return distribution.choices[0] if isinstance(distribution, CategoricalDistribution) else distribution.low
