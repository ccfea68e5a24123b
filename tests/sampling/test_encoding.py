"""Coordinates of configurations: codes, encodings, and conditions read off examples."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from autometa.sampling.encoding import Domain, infer_domain
from autometa.space.files import load_space

PLAIN = Domain(
    {
        "kind": CategoricalDistribution(["a", "b", "c"]),
        "rate": FloatDistribution(1e-4, 1.0, log=True),
        "depth": IntDistribution(2, 10, step=2),
    }
)


def test_codes_and_values_are_inverse() -> None:
    values = {"kind": "b", "rate": 0.01, "depth": 6}
    codes = PLAIN.codes([values])
    assert codes[0] == pytest.approx([1, 0.5, 0.5])
    found = PLAIN.values(codes[0])
    assert found["kind"] == "b"
    assert found["rate"] == pytest.approx(0.01)
    assert found["depth"] == 6


def test_what_is_unknown_or_outside_is_marked() -> None:
    codes = PLAIN.codes([{"kind": "gone", "rate": 100.0, "other": 1}])
    assert codes[0, 0] == -1
    assert codes[0, 1] == 1.5
    assert np.isnan(codes[0, 2])
    filled = PLAIN.imputed(codes, np.random.default_rng(0))
    assert not np.isnan(filled).any()
    assert (filled[:, 0] >= 0).all()
    assert filled[0, 1] == 1


def test_a_different_category_and_a_whole_range_are_one_apart() -> None:
    rows = PLAIN.encode(
        PLAIN.codes([{"kind": k, "rate": r, "depth": 2} for k, r in (("a", 1e-4), ("b", 1e-4), ("a", 1.0))])
    )
    assert np.linalg.norm(rows[0] - rows[1]) == pytest.approx(1)
    assert np.linalg.norm(rows[0] - rows[2]) == pytest.approx(1)


def test_samples_and_neighbours_have_steps_and_bounds() -> None:
    generator = np.random.default_rng(0)
    drawn = PLAIN.sample(generator, 200)
    moved = PLAIN.neighbours(drawn, generator, 3, 0.5)
    for codes in (*drawn, *moved):
        values = PLAIN.values(codes)
        assert values["depth"] in {2, 4, 6, 8, 10}
        assert 1e-4 <= float(values["rate"]) <= 1
        assert PLAIN.codes([values])[0] == pytest.approx(codes)
    assert {PLAIN.values(c)["kind"] for c in drawn} == {"a", "b", "c"}


@pytest.mark.parametrize("name", ["few_shot", "architecture", "transductive"])
def test_random_configurations_of_a_space_are_valid(name: str) -> None:
    space = load_space(name)
    domain = Domain.of_space(space)
    for codes in domain.sample(np.random.default_rng(0), 100):
        space.check(domain.values(codes), where="drawn")


def test_gaps_of_a_space_take_its_first_values() -> None:
    space = load_space("few_shot")
    domain = Domain.of_space(space)
    part = {"learner": "prototypical", "backbone": "conv"}
    filled = domain.imputed(domain.codes([part]), np.random.default_rng(0))
    expected = space.fitted(part)
    assert expected is not None
    assert domain.values(filled[0]) == pytest.approx(expected)


def test_an_inactive_number_is_in_the_middle_and_says_so() -> None:
    examples = [{"kind": "a", "rate": 0.1}, {"kind": "b"}]
    domain = infer_domain({k: PLAIN.distributions[k] for k in ("kind", "rate")}, examples)
    rows = domain.encode(domain.codes(examples))
    assert rows[0, -2] == 1
    assert rows[1, -2:] == pytest.approx([0, 0.5])


def test_conditions_on_categories_and_numbers_are_read_off_examples() -> None:
    generator = np.random.default_rng(0)
    examples = []
    for _ in range(60):
        values: dict[str, object] = {"kind": str(generator.choice(["a", "b"])), "depth": int(generator.integers(1, 4))}
        values["noise"] = str(generator.choice(["x", "y", "z"]))
        if values["kind"] == "a" and int(str(values["depth"])) >= 2:
            values["child"] = float(generator.random())
        examples.append(values)
    distributions = {
        "child": FloatDistribution(0, 1),
        "depth": IntDistribution(1, 3),
        "kind": CategoricalDistribution(["a", "b"]),
        "noise": CategoricalDistribution(["x", "y", "z"]),
    }
    domain = infer_domain(distributions, examples)  # type: ignore[arg-type]
    assert {c.parent for c in domain.conditions["child"]} == {"kind", "depth"}
    for codes in domain.sample(generator, 100):
        found = domain.values(codes)
        assert ("child" in found) == (found["kind"] == "a" and int(found["depth"]) >= 2)
