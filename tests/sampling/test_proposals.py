"""Proposals from matrices of trials: a portfolio first, then expected improvement, always within the domain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from autometa.past import PastReport, PastStudy, PastTrial
from autometa.sampling.encoding import Condition, Domain, Values
from autometa.sampling.proposals import Proposal, Proposer
from autometa.sampling.scores import Results
from autometa.sampling.surrogates import fit_surrogates
from tests.sampling.bowl_studies import Objective, bowl, bowl_study

BOX: dict[str, BaseDistribution] = {"x": FloatDistribution(0, 1), "y": FloatDistribution(1e-4, 1, log=True)}
LEFT, RIGHT = bowl_study("left", bowl(0.2, -3)), bowl_study("right", bowl(0.8, -1), seed=1)


def proposer(*past: PastStudy, domain: Domain | None = None, **options: Any) -> Proposer:
    surrogates, _ = fit_surrogates(domain or Domain(BOX), past)
    assert surrogates is not None
    return Proposer(surrogates, **options)


def after(one: Proposer, tried: list[Values], values: list[float], number: int = 0, **options: Any) -> Proposal:
    """The proposal after trials of these configurations and final values; NaN for one that is running."""
    constraints = options.pop("constraints", None)
    column = np.array(values, dtype=float).reshape(len(tried), 1)
    results = Results(column, np.full_like(column, np.nan), constraints)
    return one.propose(one.domain.codes(tried), results, number=number or len(tried), **options)


def searched(one: Proposer, function: Objective, trials: int) -> list[Values]:
    """One trial after another."""
    tried: list[Values] = []
    for _ in range(trials):
        tried.append(after(one, tried, [function(v) for v in tried]).values)
    return tried


def test_the_first_proposals_are_the_best_of_past_studies_that_complement_each_other() -> None:
    # The second best of `left`, which counts more, would add little to its best.
    found = proposer(LEFT, RIGHT, start=np.array([1.0, 0.0])).portfolio(2)
    assert [proposal.why for proposal in found] == ["portfolio 1: from left", "portfolio 2: from right"]
    for study, proposal in zip((LEFT, RIGHT), found, strict=True):
        best = study.best()
        assert best is not None
        assert proposal.values == pytest.approx(best.values)


def test_a_portfolio_repeats_nothing_and_ends_where_the_past_does() -> None:
    found = [tuple(proposal.values.items()) for proposal in proposer(LEFT, RIGHT).portfolio(50)]
    assert len(found) == len(set(found)) == 6, "three of each study"


@pytest.mark.parametrize(("start", "name"), [([3.0, 0.0], "left"), ([0.0, 3.0], "right")])
def test_the_study_that_is_believed_more_comes_first(start: list[float], name: str) -> None:
    one = proposer(LEFT, RIGHT, start=np.array(start))
    assert one.portfolio(1)[0].why.endswith(name)
    assert one.probabilities[["left", "right"].index(name)] > 0.9


def test_results_move_the_search_to_a_best_that_no_past_study_had() -> None:
    target = bowl(0.5, -2)
    tried = searched(proposer(LEFT, RIGHT, seed=3), target, 16)
    assert max(map(target, tried)) > max(target(t.values) for study in (LEFT, RIGHT) for t in study.trials)
    assert max(map(target, tried)) > -0.002


def test_the_same_trials_give_the_same_proposal_whatever_was_proposed_before() -> None:
    target, used = bowl(0.4, -2), proposer(LEFT, RIGHT, seed=2)
    tried = searched(used, target, 7)
    values = [target(v) for v in tried]
    assert after(used, tried[:5], values[:5]) == after(proposer(LEFT, RIGHT, seed=2), tried[:5], values[:5])
    assert after(used, tried, values, number=7) != after(used, tried, values, number=8), "draws by the trial's number"


def test_what_speaks_for_a_proposal_is_said() -> None:
    target = bowl(0.2, -3)
    one = proposer(LEFT, RIGHT)
    tried = [trial.values for trial in RIGHT.trials[:12]]
    proposal = after(one, tried, [target(v) for v in tried])
    assert proposal.why.startswith("prior: left 0.9") or proposal.why == "prior: left 1.00"


def discrete_study(domain: Domain) -> PastStudy:
    values = [domain.values(codes) for codes in domain.sample(np.random.default_rng(4), 60)]
    return PastStudy("d", tuple(PastTrial(v, (PastReport(1, -abs(float(v["n"]) - 2)),)) for v in values))


def test_nothing_is_tried_twice_while_anything_is_new() -> None:
    domain = Domain({"n": IntDistribution(0, 5), "k": CategoricalDistribution(["a", "b"])})
    every: list[Values] = [{"n": n, "k": k} for n in range(6) for k in ("a", "b")]
    one = proposer(discrete_study(domain), domain=domain)
    for missing in every:
        tried = [v for v in every if v != missing]
        assert after(one, tried, [-abs(float(v["n"]) - 2) for v in tried]).values == missing
    assert after(one, every, [0.3] * 12).values in every


@pytest.mark.parametrize("shown", [[], [-0.3, -0.2, -0.1]])
def test_fixed_values_are_kept(shown: list[float]) -> None:
    tried: list[Values] = [{"x": x, "y": 0.02} for x in (0.1, 0.4, 0.9)][: len(shown)]
    proposal = after(proposer(LEFT, RIGHT), tried, shown, fixed={"x": 0.35})
    assert proposal.values["x"] == pytest.approx(0.35)
    assert 1e-4 <= float(proposal.values["y"]) <= 1


def test_running_trials_are_not_proposed_again() -> None:
    one, tried = proposer(LEFT), [trial.values for trial in LEFT.trials[:8]]
    values = [bowl(0.25, -3)(v) for v in tried]
    for _ in range(4):  # all at once
        tried.append(after(one, tried, values, number=20).values)
        values.append(np.nan)
    assert len({tuple(v.values()) for v in tried}) == 12


def test_inactive_parameters_have_no_value() -> None:
    distributions = {"kind": CategoricalDistribution(["a", "b"]), "a.rate": FloatDistribution(0, 1)}
    domain = Domain(distributions, {"a.rate": [Condition("kind", frozenset({0}))]})
    values = [domain.values(codes) for codes in domain.sample(np.random.default_rng(4), 80)]

    def target(v: Values) -> float:
        return -0.3 if v["kind"] == "b" else -((float(v["a.rate"]) - 0.7) ** 2) * 2

    past = PastStudy("c", tuple(PastTrial(v, (PastReport(1, target(v)),)) for v in values))
    tried = searched(proposer(past, domain=domain), target, 12)
    assert all(("a.rate" in v) == (v["kind"] == "a") for v in tried)
    assert max(map(target, tried)) > -0.001


def test_infeasible_configurations_are_avoided() -> None:
    """The past's best lies where the constraint is violated, at x < 0.5."""
    one, tried = proposer(LEFT), [trial.values for trial in LEFT.trials[:25]]
    values = [bowl(0.2, -3)(v) for v in tried]
    margins = np.array([[0.5 - float(v["x"])] for v in tried])
    free, bound = after(one, tried, values), after(one, tried, values, constraints=margins)
    assert float(free.values["x"]) < 0.4
    assert float(bound.values["x"]) > 0.48


def test_cheaper_improvements_are_preferred_where_seconds_were_noted() -> None:
    """Of two bowls the one at x = 0.8 is a little better, and takes 50 times as long."""

    def twins(v: Values) -> float:
        return max(bowl(0.2, -2)(v) - 0.01, bowl(0.8, -2)(v))

    study = bowl_study("twins", twins, trials=120)
    timed = tuple(
        replace(t, curve=(replace(t.curve[0], seconds=1.0 if t.values["x"] < 0.5 else 50.0),)) for t in study.trials
    )
    tried: list[Values] = [{"x": 0.5, "y": y} for y in (1e-4, 1e-3, 1e-2, 1e-1)]
    values = [twins(v) for v in tried]
    for cost_aware in (False, True):
        one = proposer(replace(study, trials=timed), cost_aware=cost_aware)
        found = [float(after(one, tried, values, number=number).values["x"]) for number in range(4, 10)]
        assert [x < 0.5 for x in found] == [cost_aware] * 6
