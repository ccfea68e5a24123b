"""No configuration is proposed twice, whoever proposes; what is new is proposed as it would have been."""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, InMemoryStorage

from autometa.hpo.capped_history import CappedHistory
from autometa.hpo.failures import FailureAwareTPE
from autometa.hpo.never_twice import NeverTwice
from autometa.hpo.tried import Tried
from autometa.past import PastReport, PastStudy, PastTrial
from autometa.sampling.sampler import PriorSampler
from autometa.space.parameters import Choice, Range
from autometa.space.space import SearchSpace

SMALL = SearchSpace(
    "small",
    (
        Choice("learner", ("a", "b")),
        Range("a.width", 2, 5, integer=True, when={"learner": ("a",)}),
        Range("b.rate", 0.0, 1.0, step=0.25, when={"learner": ("b",)}),
        Choice("b.flip", (True, False), when={"learner": ("b",)}),
    ),
)
ALL = 4 + 5 * 2
LARGE = SearchSpace("large", (Choice("learner", ("a", "b")), Range("rate", 1e-4, 1.0, log=True)))


def worth(values: dict) -> float:
    """Wide networks were better, and who flips was not."""
    return 0.1 * values["a.width"] if "a.width" in values else 0.3 - 0.1 * values["b.flip"] - 0.1 * values["b.rate"]


def prior() -> BaseSampler:
    made = [
        *({"learner": "a", "a.width": width} for width in (2, 3, 4, 5)),
        *({"learner": "b", "b.rate": rate / 4, "b.flip": flip} for rate in range(5) for flip in (True, False)),
    ]
    trials = [PastTrial(v, (PastReport(1, worth(v)),), "complete", number) for number, v in enumerate(made)]
    past = [PastStudy(f"past {number}", tuple(trials)) for number in range(2)]
    sampler = PriorSampler(past, seed=1, space=SMALL, cold=FailureAwareTPE(seed=3, startup=4))
    assert sampler.prepare() is not None, "or there is no prior to test"
    return sampler


@pytest.mark.parametrize(
    "make",
    [
        lambda storage: RandomSampler(seed=4),
        lambda storage: TPESampler(seed=4, n_startup_trials=3, multivariate=True, group=True),
        lambda storage: CappedHistory(FailureAwareTPE(seed=4, startup=3), storage),
        lambda storage: CappedHistory(prior(), storage),
    ],
    ids=["random", "tpe", "conditional", "prior"],
)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_every_configuration_of_a_small_space_comes_once(make: Callable[[BaseStorage], BaseSampler]) -> None:
    storage = InMemoryStorage()
    study = optuna.create_study(storage=storage, direction="maximize")
    tried = Tried(study, SMALL)
    study.sampler = NeverTwice(make(storage), tried, seed=6)
    seen = []
    while not tried.is_all:
        trial = study.ask()
        values = SMALL.suggest(trial)
        seen.append(SMALL.key(values))
        study.tell(trial, worth(values))
    assert len(seen) == len(set(seen)) == ALL
    assert len(study.trials) == ALL, "nothing is left of what was not taken"


def test_what_is_new_is_proposed_as_it_would_have_been() -> None:
    found = []
    for is_wrapped in (False, True):
        study = optuna.create_study(direction="maximize", sampler=FailureAwareTPE(seed=5, startup=4))
        if is_wrapped:
            study.sampler = NeverTwice(study.sampler, Tried(study, LARGE), seed=0)
        for number in range(12):
            trial = study.ask()
            LARGE.suggest(trial)
            study.tell(trial, 0.5 + 0.01 * (number * 5 % 7))
        found.append([trial.params for trial in study.trials])
    assert found[0] == found[1]


def test_what_somebody_asks_for_again_comes_again() -> None:
    study = optuna.create_study()
    study.sampler = NeverTwice(RandomSampler(seed=4), Tried(study, LARGE), seed=6)
    for _ in range(2):
        study.enqueue_trial({"learner": "a", "rate": 0.01})
    assert [LARGE.suggest(study.ask()) for _ in range(2)] == [{"learner": "a", "rate": 0.01}] * 2


def test_a_part_that_was_asked_for_is_kept_even_where_all_with_it_were_tried() -> None:
    space = SearchSpace("s", (Choice("learner", ("a", "b")), Choice("flip", (True, False))))
    study = optuna.create_study()
    study.sampler = NeverTwice(RandomSampler(seed=4), Tried(study, space), seed=6)
    for _ in range(3):
        study.enqueue_trial({"learner": "b"})
    asked = [space.suggest(study.ask()) for _ in range(3)]
    assert [values["learner"] for values in asked] == ["b"] * 3
    assert {values["flip"] for values in asked[:2]} == {True, False}


def test_numbers_that_differ_in_their_last_digits_are_one_configuration() -> None:
    study = optuna.create_study()
    tried = Tried(study, LARGE)
    study.enqueue_trial({"learner": "a", "rate": 0.029999999999999995})
    assert {"learner": "a", "rate": 0.03} in tried
    assert {"learner": "b", "rate": 0.03} not in tried
    assert {"learner": "a", "rate": 0.0300001} not in tried
