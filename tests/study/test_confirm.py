"""Who is confirmed, who won, and by how much: chosen on one half of the episodes, reported on the other."""

from __future__ import annotations

import numpy as np
import pytest

from autometa.learning import intervals
from autometa.learning.scores import Scores
from autometa.records import Accuracy, Baseline, Confirmation, Retrained, RungReport, TrialConfig, TrialRecord
from autometa.study import confirm


def answers(first: float, second: float, episodes: int = 40, seed: int = 3) -> Scores:
    """Two of six classes an episode; accuracy `first` in one half of the episodes and `second` in the other."""
    classes = np.random.default_rng(seed).random((episodes, 6)).argsort(1)[:, :2]
    right = np.repeat([first, second], episodes // 2)[:, None, None]
    counts = (np.eye(2) * right + (1 - np.eye(2)) * (1 - right)) * 100
    return Scores(classes, counts.round().astype(int), np.arange(6))


def confirmed(model: int | str, scores: Scores) -> Confirmation:
    selection, validation = (intervals.accuracy(half, 0) for half in confirm.halves(scores))
    whose = {"trial": model} if isinstance(model, int) else {"baseline": model}
    return Confirmation(**whose, selection=selection, validation=validation)


def test_what_chooses_the_winner_is_not_what_is_reported_of_it() -> None:
    lucky, steady = confirmed(4, answers(0.9, 0.6)), confirmed(7, answers(0.8, 0.8))
    won = confirm.winner([steady, lucky])
    assert won is not None
    assert won.trial == 4
    assert won.validation.mean == pytest.approx(0.6), "its luck stays in the half that chose it"


def test_other_seeds_choose_where_there_are_any() -> None:
    lucky, steady = confirmed(4, answers(0.9, 0.9)), confirmed(7, answers(0.8, 0.8))
    half = intervals.accuracy(answers(0.7, 0.7), 0)
    again = lucky.model_copy(update={"retrained": Retrained(seeds=[1, 2], selection=half, validation=half)})
    steady_again = Retrained(seeds=[1, 2], selection=steady.validation, validation=half)
    won = confirm.winner([again, steady.model_copy(update={"retrained": steady_again})])
    assert won is not None
    assert won.trial == 7
    seeds = [seed for trial_seed in range(50) for seed in confirm.other_seeds(trial_seed, 3)]
    assert len(set(seeds)) == 150
    assert min(seeds) > 50, "apart from the seeds of all trials"


def test_a_baseline_wins_only_where_it_is_better_than_every_trial() -> None:
    lucky, steady = confirmed(4, answers(0.9, 0.9)), confirmed(7, answers(0.8, 0.8))
    for accuracy, expected in ((0.91, "baseline b"), (0.9, "trial 4"), (0.7, "trial 4")):
        won = confirm.winner([confirmed("b", answers(accuracy, accuracy)), lucky, steady])
        assert won is not None
        assert won.source == expected
    half = intervals.accuracy(answers(0.7, 0.7), 0)
    again = lucky.model_copy(update={"retrained": Retrained(seeds=[1, 2], selection=half, validation=half)})
    won = confirm.winner([confirmed("b", answers(0.75, 0.75)), again])
    assert won is not None
    assert won.source == "baseline b", "other seeds say that the trial was lucky"
    won = confirm.winner([confirmed("b", answers(0.75, 0.75))])
    assert won is not None
    assert won.source == "baseline b", "no trial has a model"


def test_a_winner_does_not_beat_a_baseline_that_it_is_not_clearly_better_than() -> None:
    def unbeaten(accuracy: float) -> list[str]:
        kept = {"trial 4": answers(0.9, 0.8), "baseline b": answers(0.9, accuracy), "trial 5": answers(0.9, 0.9)}
        known = Baseline(
            name="b", config=TrialConfig(values={}), accuracy=intervals.accuracy(kept["trial 4"], 0), seconds=1
        )
        return [c.other for c in confirm.unbeaten(confirm.compared("trial 4", kept), [known])]

    assert unbeaten(0.7) == [], "trial 5 is better, and no baseline"
    assert unbeaten(0.8) == unbeaten(0.9) == ["baseline b"]


def test_an_old_study_was_chosen_by_what_it_reports() -> None:
    old = Confirmation(trial=4, validation=intervals.accuracy(answers(0.8, 0.8), 0))
    assert old.chosen_by == old.validation


def test_finalists_are_compared_on_the_reported_half_of_common_episodes() -> None:
    kept = {"trial 4": answers(0.9, 0.75), "trial 7": answers(0.2, 0.7), "trial 9": answers(0.9, 0.9, seed=8)}
    (found,) = confirm.compared("trial 4", kept)
    assert (found.source, found.other) == ("trial 4", "trial 7"), "trial 9 was measured on other episodes"
    assert found.ahead == pytest.approx(0.05)
    assert found.is_distinguishable
    assert confirm.compared("trial 5", kept) == [], "the winner of an older search kept no answers"


def frozen(number: int, network: str, mean: float, *, cooled: bool = False) -> TrialRecord:
    accuracy = Accuracy(mean=mean, half_width=0.02, episodes=40, seed=0)
    last = RungReport(rung=3, accuracy=accuracy, steps=0, seconds=0.0, cooled=cooled)
    facts = {"features": network, "image_seconds": 0.01}
    state = "complete" if cooled else "pruned"
    return TrialRecord(number=number, state=state, config=TrialConfig(values={}), curve=[last], facts=facts)


def test_where_a_frozen_network_leads_the_best_of_each_network_may_be_better_together() -> None:
    trials = [
        frozen(0, "a-160", 0.84, cooled=True),
        frozen(1, "a-160", 0.83),
        frozen(2, "b-160", 0.80),
        frozen(3, "b-160", 0.82),
        frozen(4, "c-160", 0.80),
    ]
    assert [trial.number for trial in confirm.to_combine(trials)] == [0, 3]
    (last,) = trials[0].curve
    trained = trials[0].model_copy(update={"curve": [last.model_copy(update={"steps": 9})]})
    assert confirm.to_combine([trained, *trials[1:]]) == [trained, trials[3]], "its last layers were tuned"
    plain = [trial.model_copy(update={"facts": {}}) for trial in (trained, trained)]
    assert confirm.to_combine([*plain, *trials[1:]]) == plain, "networks that are trained whole"
