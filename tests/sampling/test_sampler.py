"""The prior sampler in plain Optuna studies, with past studies of functions whose best is known."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import TPESampler
from optuna.trial import Trial, TrialState

from autometa import shipped
from autometa.archives.read import past_studies
from autometa.errors import StudyError
from autometa.past import PastReport, PastStudy, PastTrial
from autometa.pruning.pruner import PriorPruner
from autometa.sampling.sampler import PriorSampler
from autometa.space.files import load_space
from autometa.trial_attributes import ORIGIN
from tests.sampling.bowl_studies import Objective, bowl, bowl_study

optuna.logging.set_verbosity(optuna.logging.ERROR)


def ask(study: optuna.Study) -> Trial:
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.suggest_float("y", 1e-4, 1, log=True)
    return trial


def searched(sampler: Any, function: Objective, trials: int, direction: str = "maximize") -> optuna.Study:
    study = optuna.create_study(sampler=sampler, direction=direction)
    for _ in range(trials):
        trial = ask(study)
        study.tell(trial, function(trial.params))
    return study


def params(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in study.trials]


def test_with_one_identical_past_study_the_first_suggestion_is_its_best() -> None:
    known = bowl_study("same", bowl(0.3, -3))
    study = searched(PriorSampler([known], seed=0), bowl(0.3, -3), 1)
    best = known.best()
    assert best is not None
    assert study.trials[0].params == pytest.approx(best.values)
    assert "same" in ORIGIN.required_of(study.trials[0])


def test_an_identical_past_study_is_worth_many_trials() -> None:
    target = bowl(0.3, -3)
    warm = searched(PriorSampler([bowl_study("same", target)], seed=0), target, 8)
    cold = searched(PriorSampler(seed=0), target, 8)
    assert warm.best_value > -0.001
    assert cold.best_value < -0.01


def test_a_sampler_may_go_from_study_to_study() -> None:
    target = bowl(0.6, -2)
    known = [bowl_study("near", bowl(0.5, -2)), bowl_study("far", bowl(0.1, -4), seed=1)]
    used = PriorSampler(known, seed=0, cold_every=0)  # a cold sampler goes on from the numbers drawn before
    searched(used, bowl(0.1, -4), 15)
    found = params(searched(used, target, 9))
    assert found == params(searched(PriorSampler(known, seed=0, cold_every=0), target, 9))


def test_an_empty_archive_gives_the_cold_sampler() -> None:
    target = bowl(0.3, -3)
    assert params(searched(PriorSampler(seed=3), target, 15)) == params(searched(TPESampler(seed=3), target, 15))


def test_shuffled_results_are_left_out_and_the_sampler_is_cold() -> None:
    target = bowl(0.3, -3)
    generator = np.random.default_rng(1)
    shuffled = []
    for number in range(5):
        study = bowl_study(f"shuffled {number}", target, trials=100, seed=number)
        curves = [trial.curve for trial in study.trials]
        order = generator.permutation(len(curves))
        trials = tuple(PastTrial(t.values, curves[i]) for t, i in zip(study.trials, order, strict=True))
        shuffled.append(PastStudy(study.name, trials))
    sampler = PriorSampler(shuffled, seed=3)
    assert params(searched(sampler, target, 15)) == params(searched(TPESampler(seed=3), target, 15))
    assert len(sampler.dropped) == 5


def test_an_unrelated_space_leaves_the_sampler_cold() -> None:
    other = bowl_study("other", bowl(0.3, -3))
    renamed = tuple(PastTrial({"a": t.values["x"], "b": t.values["y"]}, t.curve) for t in other.trials)
    target = bowl(0.3, -3)
    sampler = PriorSampler([PastStudy("other", renamed)], seed=3)
    assert params(searched(sampler, target, 15)) == params(searched(TPESampler(seed=3), target, 15))


def test_a_conditional_study_without_a_parameter_in_common_is_left_out() -> None:
    generator = np.random.default_rng(4)
    trials = []
    for number in range(60):
        rate = float(generator.random())
        values = {"kind": "ab"[number % 2], f"{'ab'[number % 2]}.rate": rate}
        trials.append(PastTrial(values, (PastReport(1, -((rate - 0.7) ** 2)),)))
    sampler, target = PriorSampler([PastStudy("other", tuple(trials))], seed=3), bowl(0.3, -3)
    assert params(searched(sampler, target, 15)) == params(searched(TPESampler(seed=3), target, 15))
    assert sampler.dropped == {"other": "it has no parameter in common"}


def test_weight_goes_to_the_matching_study_when_its_rival_is_reversed() -> None:
    target = bowl(0.3, -3)
    sampler = PriorSampler(
        [bowl_study("reversed", bowl(0.3, -3, sign=-1), seed=1), bowl_study("same", target, seed=2)], seed=0
    )
    searched(sampler, target, 12)
    assert sampler.weights["same"] > 0.8
    assert sampler.weights["reversed"] < 0.05


def test_a_reversed_study_alone_is_left_behind() -> None:
    target = bowl(0.3, -3)
    sampler = PriorSampler([bowl_study("reversed", bowl(0.3, -3, sign=-1))], seed=0)
    study = searched(sampler, target, 20)
    assert sampler.weights["reversed"] < 0.1
    assert study.best_value > -0.05


def test_minimising_mirrors_maximising() -> None:
    upward = searched(PriorSampler([bowl_study("p", bowl(0.2, -2))], seed=0, cold_every=0), bowl(0.3, -3), 10)
    mirrored = bowl_study("p", bowl(0.2, -2, sign=-1), direction="minimize")
    sampler = PriorSampler([mirrored], seed=0, cold_every=0)
    downward = searched(sampler, bowl(0.3, -3, sign=-1), 10, direction="minimize")
    for up, down in zip(params(upward), params(downward), strict=True):
        assert up == pytest.approx(down)


def test_the_same_seed_gives_the_same_search() -> None:
    archive = [bowl_study("a", bowl(0.2, -2), seed=1), bowl_study("b", bowl(0.8, -1), seed=2)]
    runs = [params(searched(PriorSampler(archive, seed=5), bowl(0.3, -3), 12)) for _ in range(2)]
    assert runs[0] == runs[1]


def test_every_trial_says_where_it_came_from() -> None:
    study = optuna.create_study(sampler=PriorSampler([bowl_study("p", bowl(0.2, -2))], seed=0), direction="maximize")
    study.enqueue_trial({"x": 0.5, "y": 0.1}, user_attrs=ORIGIN.entry("by hand"))
    study.optimize(lambda t: bowl(0.3, -3)({"x": t.suggest_float("x", 0, 1), "y": t.suggest_float("y", 1e-4, 1)}), 15)
    origins = [ORIGIN.required_of(t).split(" ")[0].rstrip(":") for t in study.trials]
    assert origins == ["by", "prior", "cold", *["prior"] * 11, "cold"]


FAMILIES: dict[str, BaseDistribution] = {
    "family": CategoricalDistribution(["a", "b", "c", "d"]),
    **{name: FloatDistribution(0, 1) for name in "xyz"},
}


def of_family(values: Mapping[str, Any], is_best: bool) -> float:
    return 2.0 * is_best + values["x"] + values["y"] + values["z"]


def found_in(sampler: PriorSampler, trials: int = 8) -> float:
    """The best of so many trials where any family but "a" is better, up to 5."""
    study = optuna.create_study(sampler=sampler, direction="maximize")
    for _ in range(trials):
        trial = study.ask(FAMILIES)
        study.tell(trial, of_family(trial.params, trial.params["family"] != "a"))
    return study.best_value


def test_a_past_in_which_the_wrong_family_was_best_does_little_harm() -> None:
    """All that it proposes is of that family, and within it the past ranks rightly. The cold third trial shows more."""
    past = [wrong_family(seed) for seed in range(12)]
    found = {
        every: np.mean([found_in(PriorSampler(past, seed=seed, cold_every=every)) for seed in range(5)])
        for every in (0, 5)
    }
    cold = np.mean([found_in(PriorSampler(seed=seed)) for seed in range(5)])
    assert found[0] < cold < found[5]


def wrong_family(seed: int) -> PastStudy:
    random = np.random.default_rng(seed)
    drawn = [dict(zip("xyz", map(float, random.random(3)), strict=True)) for _ in range(60)]
    values = [{"family": str(random.choice(list("abcd"))), **one} for one in drawn]
    trials = tuple(PastTrial(v, (PastReport(1, of_family(v, v["family"] == "a")),)) for v in values)
    return PastStudy(f"another family {seed}", trials)


def test_pending_trials_count_as_taken() -> None:
    archive = [bowl_study("a", bowl(0.2, -2), seed=1), bowl_study("b", bowl(0.8, -1), seed=2)]
    study = optuna.create_study(sampler=PriorSampler(archive, seed=0, cold_every=0), direction="maximize")
    portfolio = [ask(study) for _ in range(4)]
    assert len({tuple(t.params.values()) for t in portfolio}) == 4
    # The first two are one of each study, since the second of the same would add little.
    assert {ORIGIN.required_of(t).split("from ")[1] for t in study.trials[:2]} == {"a", "b"}
    for trial in portfolio:
        study.tell(trial, bowl(0.3, -3)(trial.params))
    later = [ask(study) for _ in range(3)]
    distances = [abs(a.params["x"] - b.params["x"]) + abs(a.params["y"] - b.params["y"]) for a in later for b in later]
    assert sum(d > 1e-6 for d in distances) == 6


def conditional(trial: Any) -> dict[str, Any]:
    kind = trial.suggest_categorical("kind", ["a", "b"])
    depth = trial.suggest_int("depth", 1, 3)
    if kind == "a":
        trial.suggest_float("a.rate", 0, 1)
        if depth >= 2:
            trial.suggest_float("a.second", 0, 1)
    else:
        trial.suggest_categorical("b.mode", ["s", "t"])
    return dict(trial.params)


def conditional_value(v: Mapping[str, Any]) -> float:
    if v["kind"] == "b":
        return -0.5 - 0.1 * (v["b.mode"] == "s")
    return -((v["a.rate"] - 0.7) ** 2) - 0.1 * v["depth"] - (v.get("a.second", 0.3) - 0.3) ** 2


def conditional_past(trials: int, seed: int) -> PastStudy:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    values = [conditional(study.ask()) for _ in range(trials)]
    return PastStudy("c", tuple(PastTrial(v, (PastReport(1, conditional_value(v)),)) for v in values))


class NeverAsked(TPESampler):
    """A cold sampler that the prior must leave no parameter to."""

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        pytest.fail(f"no value was proposed for {param_name}")


def test_a_conditional_space_gets_a_value_for_each_active_parameter() -> None:
    sampler = PriorSampler([conditional_past(80, 1)], seed=0, cold_every=0, cold=NeverAsked())
    study = optuna.create_study(sampler=sampler, direction="maximize")
    for _ in range(15):
        trial = study.ask()
        conditional(trial)
        study.tell(trial, conditional_value(trial.params))
    assert study.best_value > -0.13
    assert study.best_params["kind"] == "a"


def test_past_values_outside_the_range_and_unknown_choices_do_no_harm() -> None:
    wide = [
        PastTrial({"x": t.values["x"] * 3 - 1, "y": t.values["y"], "gone": "z"}, t.curve)
        for t in bowl_study("p", bowl(0.3, -3)).trials
    ]
    study = searched(PriorSampler([PastStudy("wide", tuple(wide))], seed=0), bowl(0.3, -3), 12)
    assert all(0 <= t.params["x"] <= 1 and set(t.params) == {"x", "y"} for t in study.trials)


def test_pruned_and_failed_trials_are_learned_from() -> None:
    target = bowl(0.3, -3)
    study = optuna.create_study(
        sampler=PriorSampler([bowl_study("near", bowl(0.35, -2.8))], seed=0), direction="maximize"
    )
    for number in range(14):
        trial = ask(study)
        trial.report(target(trial.params) - 0.5, 1)
        if number % 3 == 0:
            study.tell(trial, state=TrialState.PRUNED)
        elif number == 4:
            study.tell(trial, state=TrialState.FAIL)
        else:
            trial.report(target(trial.params), 2)
            study.tell(trial, target(trial.params))
    assert study.best_value > target({"x": 0.35, "y": 10**-2.8})  # better than the past's best here


@pytest.mark.parametrize("known", [[], [bowl_study("p", bowl(0.3, -3))]], ids=["cold", "warm"])
def test_several_objectives_are_refused(known: list[PastStudy]) -> None:
    study = optuna.create_study(sampler=PriorSampler(known, seed=0), directions=["maximize"] * 2)
    with pytest.raises(StudyError, match="has 2 objectives, and PriorSampler searches for one"):
        study.optimize(lambda t: (t.suggest_float("x", 0, 1), 1.0), n_trials=3)


def constrained(sampler: Any, says: Callable[[Mapping[str, Any]], float], trials: int = 30) -> optuna.Study:
    """What is best by the past is forbidden: it lies at x = 0.3, and only x above 0.6 is feasible."""
    study = optuna.create_study(sampler=sampler, direction="maximize")
    for _ in range(trials):
        trial = ask(study)
        trial.set_constraint("x", says(trial.params))
        study.tell(trial, bowl(0.3, -3)(trial.params))
    return study


def feasible(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in study.trials if trial.params["x"] >= 0.6]


@pytest.mark.parametrize(
    "says", [lambda v: 0.6 - v["x"], lambda v: float(v["x"] < 0.6), lambda v: -1.0 if v["x"] >= 0.6 else 1e6]
)
def test_infeasible_trials_are_avoided_no_less_than_by_tpe(says: Callable[[Mapping[str, Any]], float]) -> None:
    known = [bowl_study("same", bowl(0.3, -3)), bowl_study("near", bowl(0.4, -2), seed=1)]
    warm = [feasible(constrained(PriorSampler(known, seed=seed), says)) for seed in range(3)]
    cold = [feasible(constrained(TPESampler(seed=seed), says)) for seed in range(3)]
    assert sum(map(len, warm)) >= max(sum(map(len, cold)), 3 * 15)  # without constraints 10 of 90
    for by_prior, by_tpe in zip(warm, cold, strict=True):
        best = max(trial.value or 0.0 for trial in by_prior)
        assert best > -0.095  # of -0.09, at x = 0.6
        assert best >= max(trial.value or 0.0 for trial in by_tpe) - 0.001


def test_the_constraints_func_of_the_cold_sampler_counts() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Optuna 5 prefers set_constraint
        cold = TPESampler(seed=0, constraints_func=lambda trial: (0.6 - trial.params["x"], -1.0))
    study = searched(PriorSampler([bowl_study("same", bowl(0.3, -3))], seed=0, cold=cold), bowl(0.3, -3), 30)
    assert len(feasible(study)) >= 15


def test_constraints_that_all_trials_keep_change_nothing() -> None:
    known = [bowl_study("same", bowl(0.3, -3))]
    free = searched(PriorSampler(known, seed=2), bowl(0.5, -2), 9)
    study = optuna.create_study(sampler=PriorSampler(known, seed=2), direction="maximize")
    for _ in range(9):
        trial = ask(study)
        trial.set_constraint("memory", -1.0)
        study.tell(trial, bowl(0.5, -2)(trial.params))
    assert params(study) == params(free)


def test_the_shipped_archives_say_something_about_the_default_space() -> None:
    # The first search of a new user has no other past.
    space = load_space("few_shot")
    proposer = PriorSampler(past_studies(shipped.folder("studies")), seed=0, space=space).prepare()
    assert proposer is not None
    assert {"cifar-fs-5w5s", "digits-5w1s", "omniglot-5w1s"} <= set(proposer.surrogates.names)


def test_what_is_enqueued_in_part_gets_the_best_of_the_rest() -> None:
    """Kind `a` is better, and best at 0.2; kind `b` is best at 0.8."""

    def value(v: Mapping[str, Any]) -> float:
        return -((v["x"] - (0.2 if v["kind"] == "a" else 0.8)) ** 2) - 0.3 * (v["kind"] == "b")

    generator = np.random.default_rng(5)
    drawn = [{"kind": str(generator.choice(["a", "b"])), "x": float(generator.random())} for _ in range(80)]
    known = PastStudy("known", tuple(PastTrial(v, (PastReport(1, value(v)),)) for v in drawn))
    study = optuna.create_study(sampler=PriorSampler([known], seed=1), direction="maximize")
    seen = {}
    for kind in (None, "b"):
        if kind:
            study.enqueue_trial({"kind": kind})
        trial = study.ask()
        seen[trial.suggest_categorical("kind", ["a", "b"])] = trial.suggest_float("x", 0, 1)
        study.tell(trial, value(trial.params))
    assert seen == {"a": pytest.approx(0.2, abs=0.1), "b": pytest.approx(0.8, abs=0.1)}


def test_what_is_given_wrongly_is_told_at_once() -> None:
    study = optuna.create_study()
    past = past_studies(shipped.folder("studies"))
    for wrong in ([study], [*past, study]):
        with pytest.raises(TypeError, match=r"not from a Study; autometa.from_optuna makes one"):
            PriorSampler(wrong)
        with pytest.raises(TypeError, match=r"PriorPruner learns from past studies"):
            PriorPruner(wrong)
    with pytest.raises(TypeError, match=r"is a text: autometa.past_studies\('studies'\)"):
        PriorSampler("studies")
    with pytest.raises(ValueError, match="log_weights has names that no past study has: nobody"):
        PriorSampler(past, log_weights={past[0].name: 1.0, "nobody": 2.0})
    with pytest.raises(ValueError, match="cold_every=-1"):
        PriorSampler(past, cold_every=-1)
