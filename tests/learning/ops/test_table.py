"""Every form of an operation gives what plain torch gives, and the fastest that can run is taken."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autometa.learning.ops import native
from autometa.learning.ops.statistics import Groups, Normalisation, Statistics
from autometa.learning.ops.table import TABLE, chosen
from tests.learning.ops.derivatives import with_derivatives

BLOCK = "convolution, normalisation, ReLU, pooling"
FUSED = "normalisation, ReLU, pooling"
NORM = "normalisation"
MEAN, VAR = torch.linspace(-1, 1, 16).double(), torch.linspace(0.5, 2, 16).double()
BY: dict[str, Normalisation] = {
    "none": None,
    "groups": Groups(2),
    "whole": Statistics(1, 6),
    "support": Statistics(2, 1),
    "given": Statistics(1, 6, given=(MEAN, VAR)),
}
compiled = "compiled" if native.is_available(torch.float64) else "in parts"


def maps(seed: int = 91, *, channels: int = 16) -> Tensor:
    return torch.randn(6, channels, 5, 4, generator=torch.Generator().manual_seed(seed)).double()


def convolution(**options: Any) -> nn.Conv2d:
    torch.manual_seed(92)
    return nn.Conv2d(16, 16, 3, **({"padding": 1, "bias": False} | options)).double()


def cases() -> list[Any]:
    """Operation, arguments after the maps, and the form that is taken outside `torch.func`."""
    scale = (torch.linspace(-1, 2, 16).double(), torch.linspace(1, 0, 16).double())
    found = [
        ("convolution", (convolution(),), "second derivative"),
        ("convolution", (convolution(bias=True),), "second derivative"),
        ("convolution", (convolution(stride=2),), "torch"),
        ("convolution", (convolution(groups=2),), "torch"),
        ("pooling", ("max",), "torch"),
        ("pooling", ("mean",), "torch"),
    ]
    for name, by in BY.items():
        plain = "batch norm" if name in ("whole", "given") else "torch"
        found.append((NORM, (*scale, by), plain))
        fused = "in parts" if name == "groups" else compiled
        found += [(FUSED, (*scale, by, pool), fused) for pool in (1, 2)]
        found.append((BLOCK, (convolution(), *scale, by, 2), fused))
    found.append((BLOCK, (convolution(bias=True), *scale, BY["whole"], 2), "in parts"))
    return [pytest.param(*case, id=f"{case[0]} {number}") for number, case in enumerate(found)]


@pytest.mark.parametrize(("operation", "arguments", "form"), cases())
def test_every_form_gives_the_numbers_of_the_plain_one(operation: str, arguments: tuple[Any, ...], form: str) -> None:
    x = maps()
    assert chosen(operation, x, *arguments).name == form
    plain, *faster = TABLE[operation]
    expected = with_derivatives(lambda x: plain.run(x, *arguments), [x])
    for other in faster:
        if other.can_run(x, *arguments):
            for a, b in zip(with_derivatives(lambda x: other.run(x, *arguments), [x]), expected, strict=True):  # noqa: B023
                torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("by", "form"),
    [
        (None, "torch"),
        (Groups(2), "stacked group norm"),
        (Statistics(1, 6), "stacked batch norm"),
        (Statistics(2, 1), "torch"),
    ],
)
def test_under_vmap_stacked_networks_are_as_each_alone(by: Normalisation, form: str) -> None:
    x = torch.stack([maps(seed) for seed in (93, 94, 95)])
    weights, biases = torch.randn(2, 3, 16, generator=torch.Generator().manual_seed(96)).double()
    seen = set()

    def normalised(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        taken = chosen(NORM, x, weight, bias, by)
        seen.add(taken.name)
        return taken.run(x, weight, bias, by)

    found = torch.vmap(normalised)(x, weights, biases)
    assert seen == {form}
    for index, of_one in enumerate(found):
        expected = TABLE[NORM][0].run(x[index], weights[index], biases[index], by)
        torch.testing.assert_close(of_one, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", ["torch", "batch norm"])
def test_running_averages_follow_whichever_form_is_taken(form: str) -> None:
    averages = torch.full((16,), 0.3).double(), torch.full((16,), 0.7).double()
    x = maps()
    run = {form.name: form.run for form in TABLE[NORM]}[form]
    run(x, torch.ones(16).double(), torch.zeros(16).double(), Statistics(1, 6, averages=averages))
    torch.testing.assert_close(averages[0], 0.9 * 0.3 + 0.1 * x.mean((0, 2, 3)))
    torch.testing.assert_close(averages[1], 0.9 * 0.7 + 0.1 * x.var((0, 2, 3)))


def test_attention_is_fused_where_nobody_differentiates() -> None:
    query = torch.randn(2, 3, 5, 8)
    assert chosen("attention", query, query, query).name == "torch"
    with torch.no_grad():
        taken = chosen("attention", query, query, query)
        assert taken.name == "fused"
        torch.testing.assert_close(taken.run(query, query, query), TABLE["attention"][0].run(query, query, query))
