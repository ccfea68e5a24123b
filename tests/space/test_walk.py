"""Every configuration of a space, as far as they can be counted, and how far two of them are apart."""

from __future__ import annotations

import itertools

import pytest

from autometa.space.parameters import Choice, Range
from autometa.space.space import SearchSpace
from autometa.space.walk import configurations


def test_each_comes_once_with_the_parameters_that_play_a_part() -> None:
    space = SearchSpace(
        "s",
        (
            Choice("learner", ("a", "b")),
            Range("a.width", 2, 6, step=2, integer=True, when={"learner": ("a",)}),
            Choice("a.deep", (True, False), when={"learner": ("a",)}),
            Range("b.rate", 0.5, 0.5, when={"learner": ("b",)}),
        ),
    )
    found = list(configurations(space))
    assert len(found) == 3 * 2 + 1
    assert len({space.key(values) for values in found}) == 7
    for values in found:
        space.check(values, where="walk")
    assert list(configurations(space, {"a.deep": False, "learner": "a"})) == [
        {"learner": "a", "a.width": width, "a.deep": False} for width in (2, 4, 6)
    ]


def test_a_continuous_range_is_one_entry_without_end() -> None:
    space = SearchSpace("s", (Choice("learner", ("a", "b")), Range("a.rate", 0.1, 1.0, when={"learner": ("a",)})))
    assert list(configurations(space)) == [None, {"learner": "b"}]


def test_steps_are_those_that_the_range_contains() -> None:
    steps = Range("rate", 0.1, 0.75, step=0.2)
    assert list(steps.each()) == pytest.approx([0.1, 0.3, 0.5, 0.7])
    assert all(steps.contains(value) for value in steps.each())


def test_a_large_space_is_not_walked_through_for_its_first_entries() -> None:
    space = SearchSpace("s", tuple(Range(f"p{number}", 0, 10**6, integer=True) for number in range(40)))
    first = list(itertools.islice(configurations(space), 3))
    assert [values["p39"] for values in first] == [0, 1, 2]


def test_distance_is_in_parts_of_the_range_on_its_scale_and_one_where_a_choice_differs() -> None:
    space = SearchSpace("s", (Choice("learner", ("a", "b")), Range("rate", 1e-4, 1.0, log=True), Range("share", 2, 6)))
    here = {"learner": "a", "rate": 0.01, "share": 3.0}
    assert space.distance(here, here) == 0
    assert space.distance(here, {**here, "rate": 0.1, "share": 3.2}) == pytest.approx(0.25)
    assert space.distance(here, {**here, "share": 5.0}) == pytest.approx(0.5)
    assert space.distance(here, {**here, "learner": "b"}) == 1
    assert space.distance(here, {"learner": "a", "rate": 0.01}) == 1
