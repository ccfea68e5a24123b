"""`PriorSampler`: an Optuna sampler that starts where past studies ended.

It works in any `optuna.create_study(sampler=PriorSampler(past))` with one objective, whoever made the past
studies, and takes a trial's constraints into account. A share of its proposals, and all of them where no past study
has anything to say, come from a cold sampler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autometa import trial_attributes as attributes
from autometa.errors import StudyError
from autometa.optuna_private import storage_of
from autometa.past import PastStudy, checked
from autometa.sampling import inferred
from autometa.sampling.carried import carrier
from autometa.sampling.encoding import Domain, infer_domain
from autometa.sampling.proposals import Proposal, Proposer
from autometa.sampling.surrogate_cache import Fit, fit_or_load
from autometa.sampling.surrogates import NOTHING_IN_COMMON
from autometa.sampling.target_trials import TargetTrials
from autometa.space.space import SearchSpace

# One proposal in five does not look at past studies at all, once a cold sampler has something to go by: within the
# first ten trials it draws at random.
_COLD_EVERY, _COLD_FROM = 5, 10
# And this one. All others are predicted to be good: only beside one that is not does a reversed past show.
_CONTRAST = 2


class PriorSampler(BaseSampler):
    """Proposes jointly for all parameters, from past studies and what the target has shown.

    The first trials, while nothing has a result, are a portfolio: configurations that did well in past studies
    and complement each other. Then each is the greatest expected improvement under a mixture of hypotheses, one
    a past study, weighted by how well it ranks the target's results (after Wistuba et al. 2018 and Feurer et al.
    2018, with ranks for values and a Gaussian process of the differences). Each trial says in
    `user_attrs["origin"]` what it came from.

    Constraints count as Optuna has them: a trial that set one above 0 (`trial.set_constraint`, or the
    `constraints_func` of `cold`) is infeasible. Improvement is that on the best feasible trial then, times the
    probability of being feasible.

    A study of several objectives is refused with a `StudyError` at its first trial.

    Args:
        past: studies to learn from; those without a parameter in common, or whose results cannot be predicted
            from their parameters, are left out.
        seed: same seed, same proposals after the same trials.
        space: what the target may vary; without it, it is learned from past studies and the target's trials.
        log_weights: how much each past study is believed before any result, by name; 0 where absent.
        cold: the sampler for cold proposals; TPE by default.
        cold_every: the third proposal is cold, and from the tenth trial on every n-th; 0 for none.
        cost_aware: prefer improvement a second of training, where past studies noted seconds.

    Attributes:
        dropped: past studies that say nothing about the target, each with the reason, by name; known once the past is
            fitted, which is at the first proposal or by `prepare`.

    Raises:
        TypeError: something in `past` is no `PastStudy`.
        ValueError: `log_weights` has a name that no past study has, or `cold_every` is negative.
    """

    def __init__(
        self,
        past: Sequence[PastStudy] = (),
        *,
        seed: int | None = None,
        space: SearchSpace | Mapping[str, BaseDistribution] | None = None,
        log_weights: Mapping[str, float] | None = None,
        cold: BaseSampler | None = None,
        cold_every: int = _COLD_EVERY,
        cost_aware: bool = False,
    ) -> None:
        self.past = checked(past, "PriorSampler")
        if unknown := sorted(set(log_weights or {}) - {study.name for study in self.past}):
            raise ValueError(f"log_weights has names that no past study has: {', '.join(unknown)}.")
        if cold_every < 0:
            raise ValueError(f"`cold_every >= 0` must hold, but got cold_every={cold_every}.")
        self._seed = int(np.random.SeedSequence(seed).generate_state(1)[0]) if seed is None else seed
        self._given = _given(space)
        self._log_weights = dict(log_weights or {})
        self._cold = cold or TPESampler(seed=seed)
        self._cold_every = cold_every
        self._cost_aware = cost_aware
        self._proposer: Proposer | None = None
        self._fitted_for: object = None
        self._proposals: dict[tuple[str, int], Proposal | None] = {}  # by study and number
        self._target_of: str | None = None
        self._target = TargetTrials()
        self.dropped: dict[str, str] = {}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The cold sampler's, which is asked whenever the prior may turn out to have nothing to say.

        A trial that is asked for a second time gets a cold proposal: the prior's would be the same again.
        """
        key = (study.study_name, trial.number)
        if key in self._proposals:
            self._proposals[key] = None
            _note_origin(study, trial, "cold")
        elif self._is_warm(study, trial) and self._knows_domain(study):
            return {}
        return self._cold.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The cold sampler's values; the prior hands out its own one by one."""
        return self._cold.sample_relative(study, trial, search_space) if search_space else {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """This parameter's part of the joint proposal."""
        proposal = self._proposal(study, trial, param_name)
        if proposal is None or param_name not in proposal.values:
            return self._cold.sample_independent(study, trial, param_name, param_distribution)
        value = inferred.within(param_distribution, proposal.values[param_name])
        if value is None:
            return self._cold.sample_independent(study, trial, param_name, param_distribution)
        return value

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if len(study.directions) > 1:
            raise StudyError(
                f"study {study.study_name!r} has {len(study.directions)} objectives, and PriorSampler searches for "
                "one: take another sampler, or make the others constraints (trial.set_constraint)"
            )
        if self.past and not self._is_warm(study, trial):
            _note_origin(study, trial, "cold")
        self._cold.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._proposals.pop((study.study_name, trial.number), None)
        self._cold.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self._seed = int(np.random.SeedSequence().generate_state(1)[0])
        self._cold.reseed_rng()
        self._fitted_for = None

    @property
    def weights(self) -> dict[str, float]:
        """How much each past study was believed at the last proposal, in [0, 1]; what is left is cold."""
        if self._proposer is None:
            return {}
        return dict(zip(self._proposer.surrogates.names, map(float, self._proposer.probabilities), strict=False))

    def prepare(self) -> Proposer | None:
        """Fit past studies now rather than at the first proposal; None where they say nothing about `space`.

        Raises:
            ValueError: the sampler was made without a space.
        """
        if self._given is None:
            raise ValueError("a sampler without a space learns it from the target's trials")
        return self._refit({})

    def _proposal(self, study: Study, trial: FrozenTrial, name: str) -> Proposal | None:
        """The trial's joint proposal, made when its first parameter is asked for; None for a cold one."""
        key = (study.study_name, trial.number)
        if key not in self._proposals:
            proposal = self._propose(study, trial, name) if self._is_warm(study, trial) else None
            self._proposals[key] = proposal
            _note_origin(study, trial, proposal.why if proposal else "cold")
        return self._proposals[key]

    def _propose(self, study: Study, trial: FrozenTrial, name: str) -> Proposal | None:
        proposer = self._proposer_for(study, name)
        if proposer is None:
            return None
        # An interrupted trial of autometa goes on as a later one, and is no failure.
        others = [
            t
            for t in study.get_trials(deepcopy=False)
            if t.number != trial.number and t.params and not attributes.INTERRUPTED.of(t)
        ]
        if self._target_of != study.study_name:
            self._target_of, self._target = study.study_name, TargetTrials()
        codes = self._target.codes(others, proposer.domain)
        sign = -1.0 if study.direction == StudyDirection.MINIMIZE else 1.0
        fixed = inferred.plain(trial.system_attrs.get("fixed_params", {}))  # where Optuna keeps what was enqueued
        return proposer.propose(codes, self._target.results(others, sign), number=trial.number, fixed=fixed)

    def _is_warm(self, study: Study, trial: FrozenTrial) -> bool:
        if not self.past:
            return False
        return not self._is_turn_of_cold(trial.number) and (
            self._fitted_for is None or self._proposer is not None or self._given is None
        )

    def _is_turn_of_cold(self, number: int) -> bool:
        if not self._cold_every:
            return False
        is_regular = number >= _COLD_FROM and number % self._cold_every == self._cold_every - 1
        return is_regular or number == _CONTRAST

    def _knows_domain(self, study: Study) -> bool:
        """Whether the prior is sure to have a proposal, before any parameter is asked for."""
        if self._given is not None:
            return self._refit({}) is not None
        asked = _asked(study)
        return bool(asked) and self._refit(asked, study) is not None

    def _refit(
        self, asked: Mapping[str, BaseDistribution], study: Study | None = None, first: str | None = None
    ) -> Proposer | None:
        """The proposer for what is known of the target's parameters; fitted again only when that changes.

        Args:
            first: the parameter that the very first trial asks for, while nothing else is known.
        """
        key = (first, *sorted((n, repr(d)) for n, d in asked.items()))
        if key != self._fitted_for:
            past, strangers = (self.past, {}) if self._given else _acquainted(self.past, {first, *asked})
            surrogates, dropped = fit_or_load(self._given, past) if self._given else _fit(past, asked, study)
            self.dropped = strangers | dropped
            self._fitted_for, self._proposer = key, None
            if surrogates is not None:
                start = np.array([self._log_weights.get(n, 0.0) for n in surrogates.names])
                self._proposer = Proposer(surrogates, start=start, cost_aware=self._cost_aware, seed=self._seed)
        return self._proposer

    def _proposer_for(self, study: Study, name: str) -> Proposer | None:
        if self._given is not None:
            return self._refit({})
        asked = _asked(study)
        return self._refit(asked, study) if asked else self._refit({}, study, first=name)


def _note_origin(study: Study, trial: FrozenTrial, why: str) -> None:
    """Unless somebody enqueued the trial and said why."""
    if attributes.ORIGIN.of(trial) is None:
        storage = storage_of(study)
        study_id = storage.get_study_id_from_name(study.study_name)
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        storage.set_trial_user_attr(trial_id, attributes.ORIGIN.key, why)


def _given(space: SearchSpace | Mapping[str, BaseDistribution] | None) -> Domain | None:
    if space is None:
        return None
    return Domain.of_space(space) if isinstance(space, SearchSpace) else Domain(dict(space))


def _asked(study: Study) -> dict[str, BaseDistribution]:
    """The distributions of all parameters that trials of this study have had."""
    found: dict[str, BaseDistribution] = {}
    for trial in study.get_trials(deepcopy=False):
        found |= trial.distributions
    return found


def _acquainted(past: Sequence[PastStudy], names: Set[str | None]) -> tuple[list[PastStudy], dict[str, str]]:
    """The studies that had one of these parameters, and the reason for leaving out each other one.

    A parameter that they had under a condition, and the target was never seen to ask for, is none in common.
    """
    known = [study for study in past if not names.isdisjoint(study.parameters)]
    return known, {study.name: NOTHING_IN_COMMON for study in past if names.isdisjoint(study.parameters)}


def _fit(past: Sequence[PastStudy], asked: Mapping[str, BaseDistribution], study: Study | None) -> Fit:
    """The fit to the ranges of past studies, carried over to those of the target where only ranges differ.

    It is the same in a search that goes on in another process, and made once: at the first trial no range is known.
    """
    their_own, domain = _domain(past, {}, None), _domain(past, asked, study)
    way = carrier(their_own, domain)
    if way is None:
        return fit_or_load(domain, past)
    surrogates, dropped = fit_or_load(their_own, past)
    return surrogates and way(surrogates), dropped


def _domain(past: Sequence[PastStudy], asked: Mapping[str, BaseDistribution], study: Study | None) -> Domain:
    """From what past studies had, and what the target was seen to ask for, which has the last word."""
    examples = [trial.values for one in past for trial in one.trials]
    tried = [inferred.plain(t.params) for t in study.get_trials(deepcopy=False) if t.params] if study else []
    known = inferred.distributions(past)
    if tried:  # what was always there in the past, and the target has not, is not the target's
        always = {name for name in known if all(name in values for values in examples)}
        known = {name: d for name, d in known.items() if name in asked or name not in always}
    return infer_domain(known | dict(asked), [*examples, *tried])
