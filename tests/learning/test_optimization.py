"""The outer loop's optimisers: one operation for all parameters, the same numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from autometa.learning.optimization import make_optimizer, set_rate, take_step

PLAIN: dict[str, Any] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True),
}


def parameters() -> list[nn.Parameter]:
    torch.manual_seed(51)
    return [nn.Parameter(torch.randn(*shape, dtype=torch.float64)) for shape in ((4, 3, 3, 3), (6, 4), (6,))]


@pytest.mark.parametrize("name", PLAIN)
def test_a_fused_optimiser_takes_the_steps_of_the_plain_one(name: str) -> None:
    ours, theirs = parameters(), parameters()
    optimizer = make_optimizer(ours, optimizer=name, outer_lr=0.5, weight_decay=0.1)
    *matrices, vector = theirs
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": [vector], "weight_decay": 0.0}]
    plain = PLAIN[name](groups, lr=0.5)
    for rate in (0.1, 0.03, 0.01):
        set_rate(optimizer, rate)
        for group in plain.param_groups:
            group["lr"] = rate
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        take_step(optimizer)
        plain.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PLAIN)
def test_a_gradient_with_channels_innermost_is_taken_for_what_it_is(name: str) -> None:
    found = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        weight, *_ = parameters()
        optimizer = make_optimizer([weight], optimizer=name, outer_lr=0.1, weight_decay=0.0)
        weight.grad = torch.linspace(-1, 2, weight.numel()).double().view_as(weight).to(memory_format=memory_format)
        take_step(optimizer)
        found.append(weight.detach())
    assert torch.equal(*found)
