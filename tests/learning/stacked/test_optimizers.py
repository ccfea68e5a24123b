"""What has no gradient is left as it is, as torch leaves it."""

from __future__ import annotations

import pytest
import torch

from autometa.learning.optimization import make_optimizer
from autometa.learning.stacked.optimizers import OPTIMIZERS


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_idle_weight_does_not_decay(name: str) -> None:
    each = [[torch.nn.Parameter(torch.full((2, 3), 1.0 + i)), torch.nn.Parameter(torch.ones(2, 2))] for i in range(2)]
    made = [make_optimizer(ps, optimizer=name, outer_lr=0.1, weight_decay=0.3) for ps in each]
    stacked = OPTIMIZERS[name](made, each)
    weights = torch.stack([torch.cat([p.detach().flatten() for p in ps]) for ps in each])
    stacked.spare(frozenset({1}))
    gradient = torch.cat([torch.ones(2, 6), torch.zeros(2, 4)], 1)
    stacked.step(weights, gradient, torch.tensor([0.1, 0.1]), 1)
    for row, (parameters, optimizer) in enumerate(zip(each, made, strict=True)):
        parameters[0].grad = torch.ones(2, 3)
        optimizer.step()
        torch.testing.assert_close(weights[row], torch.cat([p.detach().flatten() for p in parameters]))
        assert (weights[row, 6:] == 1).all()
        stacked.write(row, optimizer, parameters, 1)
        assert parameters[1] not in optimizer.state
