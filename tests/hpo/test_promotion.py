"""Who gets a free worker: halving by promotion, then the best to the end."""

from __future__ import annotations

import dataclasses

import pytest

from autometa.hpo.promotion import BEGIN, Finish, GoOn, New, Promotion, Standing, Twin
from autometa.records import Accuracy, RungReport

POLICY = Promotion(finish_from=100.0, finalists=2)


def standing(number: int, *means: float, busy: bool = False, half_width: float = 0.02) -> Standing:
    """A candidate with these accuracies at rungs 1, 2, …"""
    curve = [
        RungReport(
            rung=rung,
            accuracy=Accuracy(mean=mean, half_width=half_width, episodes=10 * rung, seed=0),
            steps=rung,
            seconds=2.0 ** (rung - 1),
        )
        for rung, mean in enumerate(means, 1)
    ]
    return Standing(number, curve, is_busy=busy)


def decided(
    *standings: Standing, left: float = 500.0, finishing: int = 0, exploring: int = 0, can_start: bool = True
) -> object:
    return POLICY.decide(standings, left=left, finishing=finishing, exploring=exploring, can_start=can_start)


def test_the_first_candidates_are_new() -> None:
    assert decided() == New()
    assert decided(standing(0, busy=True)) == New()
    assert decided(standing(0, 0.5)) == New()  # one has no half


def test_others_are_tried_almost_to_the_end_where_the_leader_is_not_trained() -> None:
    trained = standing(0, 0.5, 0.6, busy=True)
    leader = standing(1, 0.8, 0.9)
    fixed = Standing(1, [report.model_copy(update={"steps": 0, "seconds": 0.0}) for report in leader.curve])
    assert (fixed.is_fixed, leader.is_fixed) == (True, False)
    assert decided(trained, leader, left=90.0) == Finish(1)
    assert decided(trained, fixed, left=90.0) == GoOn(1, until=3)
    assert decided(trained, fixed, left=29.0) == Finish(1)
    # Confirmation and test need features, and the more time the dearer they are.
    for seconds, left in ((0.001, 30.0), (0.01, 60.0), (1.0, 85.0)):
        policy = Promotion(finish_from=100.0, finalists=2, images_at_end=lambda seen: 120_000 / seen)
        dear = dataclasses.replace(fixed, image_seconds=seconds)
        assert policy.last_from([trained, dear]) == left
        assert policy.last_from([trained, leader]) == 100.0
    taken = Standing(1, fixed.curve, is_busy=True)  # more seeds of it would be the same model
    assert decided(standing(0, 0.5, 0.6), taken, left=9.0, finishing=1) == Finish(0)


def test_the_better_of_two_goes_on_and_the_other_waits() -> None:
    assert decided(standing(0, 0.5), standing(1, 0.6)) == GoOn(1, until=2)
    assert decided(standing(0, 0.5), standing(1, 0.6, busy=True)) == New()
    assert decided(standing(0, 0.5), standing(1, 0.6, 0.7)) == New()


def test_the_first_candidates_go_on_to_the_third_rung_without_being_compared() -> None:
    believing = Promotion(finish_from=100.0, finalists=2, believed=2)

    def then(*standings: Standing) -> object:
        return believing.decide(standings, left=500.0, finishing=0, exploring=0, can_start=True)

    assert then(standing(0, 0.5)) == GoOn(0, until=2)
    assert then(standing(0, 0.5, busy=True), standing(1, 0.1)) == GoOn(1, until=2)
    assert then(standing(0, 0.5, 0.6), standing(1, 0.1, 0.1, 0.1), standing(2, 0.4)) == GoOn(0, until=3)
    assert then(standing(0, 0.5, 0.6, 0.7, busy=True), standing(1, 0.1, 0.1, 0.1), standing(2, 0.4)) == New()


def test_a_start_that_is_believed_in_is_given_up_only_for_one_that_is_clearly_better() -> None:
    believing = Promotion(finish_from=100.0, finalists=1, believed=2)
    starts = standing(0, 0.3, 0.3, 0.3), standing(1, 0.5, 0.55, 0.6)
    for mean, expected in ((0.605, Finish(1)), (0.61, Finish(1)), (0.63, Finish(2))):
        later = standing(2, 0.5, 0.55, mean)
        assert believing.decide([*starts, later], left=9.0, finishing=0, exploring=0, can_start=True) == expected
    busy = standing(1, 0.5, 0.55, 0.6, busy=True)
    later = standing(2, 0.5, 0.55, 0.61)
    assert believing.decide([starts[0], busy, later], left=9.0, finishing=0, exploring=0, can_start=True) == Finish(2)


def test_the_last_training_is_not_for_a_start_that_cannot_be_trained() -> None:
    believing = Promotion(finish_from=100.0, finalists=1, believed=2)
    frozen = Standing(0, [fixed_report(1, 0.6), fixed_report(2, 0.66, episodes=40)])
    field = frozen, standing(1, 0.3, 0.3), standing(2, 0.6, 0.67)
    assert believing.decide(field, left=9.0, finishing=0, exploring=0, can_start=True) == Finish(2)


def test_the_last_training_leaves_time_for_features_that_the_end_needs() -> None:
    policy = Promotion(finish_from=90.0, finalists=1, images_at_end=lambda seen: 10 * seen)
    tuned = dataclasses.replace(standing(3, 0.6, 0.7), network="a-160", image_seconds=0.1)
    assert policy.for_features(3, [tuned]) == 20.0  # 20 episodes at the second rung
    assert policy.for_features(3, [dataclasses.replace(tuned, image_seconds=1.0)]) == 45.0
    assert policy.for_features(4, [tuned]) == 0.0
    assert policy.for_features(3, [standing(3, 0.6, 0.7)]) == 0.0, "no features are kept of it"


def test_features_of_another_rung_may_not_take_long_unless_others_have_them() -> None:
    policy = Promotion(finish_from=100.0, finalists=1, believed=1, episode_images=100)
    # 10 more episodes are 1,000 images: 10 s of 500, and at most 75.
    cheap, dear = (
        Standing(0, [fixed_report(1, 0.8, episodes=10)], network="a-128", image_seconds=seconds)
        for seconds in (0.01, 0.08)
    )

    def then(*standings: Standing) -> object:
        return policy.decide(standings, left=500.0, finishing=0, exploring=0, can_start=True)

    assert then(cheap) == GoOn(0, until=2)
    assert then(dear) == New()
    other = Standing(1, [fixed_report(1, 0.7), fixed_report(2, 0.7, episodes=20)], True, "a-128", 0.08)
    assert then(dear, other) == GoOn(0, until=2)
    assert then(dear, dataclasses.replace(other, network="b-128")) == New()


def fixed_report(rung: int, mean: float, *, episodes: int = 10) -> RungReport:
    accuracy = Accuracy(mean=mean, half_width=0.02, episodes=episodes, seed=0)
    return RungReport(rung=rung, accuracy=accuracy, steps=0, seconds=0.0)


def test_the_highest_rung_comes_first() -> None:
    both = standing(0, 0.5, 0.6), standing(1, 0.55, 0.65), standing(2, 0.4), standing(3, 0.9)
    assert decided(*both) == GoOn(1, until=3)


def test_of_equal_candidates_the_earlier_goes_on() -> None:
    assert decided(standing(0, 0.5), standing(1, 0.5)) == GoOn(0, until=2)


def test_a_candidate_that_comes_late_can_pass_those_that_waited() -> None:
    waiting = [standing(number, 0.5) for number in range(3)]
    assert decided(*waiting, standing(3, 0.5, 0.6)) == GoOn(0, until=2)
    assert decided(*waiting, standing(3, 0.5, 0.6), standing(4, 0.8)) == GoOn(4, until=2)


def test_near_the_end_the_best_are_trained_to_the_end_and_no_more_than_there_may_be() -> None:
    field = standing(0, 0.5, 0.6), standing(1, 0.5), standing(2, 0.5, 0.55, 0.61, busy=True)
    assert decided(*field, left=100.0) == Finish(0)
    assert decided(*field, left=100.0, finishing=2) is None
    assert decided(*field, left=100.0, exploring=1) is None, "who is on a worker may be the best"


def test_a_search_that_starts_late_tries_somebody_nevertheless() -> None:
    assert decided(left=50.0) == New()
    assert decided(standing(0, busy=True), left=50.0) == New()
    assert decided(left=50.0, can_start=False) is None


def test_a_candidate_of_a_lower_rung_is_expected_to_gain_what_others_did() -> None:
    ahead, behind = standing(0, 0.5, 0.85, 0.89, busy=True), standing(1, 0.5, 0.84)
    assert decided(ahead, behind, left=50.0, finishing=1) == Finish(1)  # 0.84 + 0.04 at the third rung
    assert decided(ahead, standing(1, 0.5, 0.80), left=50.0, finishing=1) == Twin(0)


def test_a_configuration_that_is_far_ahead_is_trained_again_in_place_of_a_weak_second() -> None:
    best, weak, near = standing(0, 0.5, 0.9, busy=True), standing(1, 0.5, 0.8), standing(2, 0.5, 0.88)
    assert decided(best, weak, left=50.0, finishing=1) == Twin(0)
    assert decided(best, weak, near, left=50.0, finishing=1) == Finish(2)
    assert decided(standing(0, 0.5, 0.9), weak, left=50.0) == Finish(0)


def test_beside_a_last_training_comes_the_best_of_another_family_that_is_not_much_behind() -> None:
    first, second, other, far = (
        dataclasses.replace(standing(number, 0.5, mean), family=family)
        for number, mean, family in ((0, 0.8, "pretrain"), (1, 0.79, "pretrain"), (2, 0.75, "ridge"), (3, 0.7, "maml"))
    )
    assert decided(first, second, other, far, left=50.0) == Finish(0), "the first is the best"
    busy = dataclasses.replace(first, is_busy=True)
    assert decided(busy, second, other, far, left=50.0, finishing=1) == Finish(2)
    assert decided(busy, second, far, left=50.0, finishing=1) == Finish(1)
    believed = dataclasses.replace(POLICY, believed=2)
    how = {"left": 50.0, "finishing": 1, "exploring": 0, "can_start": True}
    start = dataclasses.replace(standing(1, 0.5, 0.745), family="prototypical")
    assert believed.decide([busy, start, other], **how) == Finish(1), "a start, where another is not clearly better"
    taken = dataclasses.replace(other, is_busy=True)
    assert decided(busy, second, taken, left=50.0, finishing=1) == Finish(1), "no family is left"


def test_an_accuracy_of_few_episodes_counts_for_less() -> None:
    lucky, sure = standing(0, 0.72, half_width=0.14), standing(1, 0.68, 0.70, half_width=0.02)
    assert decided(lucky, sure, left=50.0) == Finish(1)


def test_without_new_candidates_the_lowest_rung_goes_on() -> None:
    field = standing(0, 0.5, 0.6), standing(1, 0.4), standing(2, 0.45, busy=True)
    assert decided(*field, can_start=False) == GoOn(1, until=2)
    assert decided(standing(0, 0.5, busy=True), can_start=False) is None


def test_features_of_a_first_rung_may_take_a_part_of_the_time_but_of_the_believed_all() -> None:
    policy = Promotion(finish_from=60, finalists=2, believed=2)
    assert policy.begin_within(1, 100.0) is None
    assert policy.begin_within(2, 100.0) == pytest.approx(BEGIN * 100)
