"""Batch norm against torch's own, with its first and second derivatives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from autometa.learning.ops.batch_norm import batch_normalised
from autometa.learning.ops.statistics import EPSILON, MOMENTUM, Statistics


def parts(*, channels_last: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(81)
    x = torch.randn(5, 3, 4, 2, dtype=torch.float64) * torch.tensor([1.0, 3.0, 0.2])[:, None, None].double() + 2
    x = x.to(memory_format=torch.channels_last) if channels_last else x
    weight, bias = (torch.randn(3, dtype=torch.float64).requires_grad_() for _ in range(2))
    return x.requires_grad_(), weight, bias


def test_both_derivatives_agree_with_finite_differences() -> None:
    def normalised(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return batch_normalised(x, weight, bias, Statistics(1, len(x)))

    assert torch.autograd.gradcheck(normalised, parts())
    assert torch.autograd.gradgradcheck(normalised, parts())


@pytest.mark.parametrize("channels_last", [False, True])
def test_it_is_torchs_averages_and_second_derivatives_included(channels_last: bool) -> None:
    found = []
    for ours in (True, False):
        x, weight, bias = parts(channels_last=channels_last)
        averages = torch.full((3,), 0.3).double(), torch.full((3,), 0.7).double()
        if ours:
            y = batch_normalised(x, weight, bias, Statistics(1, len(x), averages=averages))
        else:
            y = F.batch_norm(x, *averages, weight, bias, training=True, momentum=MOMENTUM, eps=EPSILON)
        gradients = torch.autograd.grad(y.sin().sum(), [x, weight, bias], create_graph=True)
        total = torch.stack([(gradient * gradient.detach().cos()).sum() for gradient in gradients]).sum()
        found.append([y, *averages, *gradients, *torch.autograd.grad(total, [x, weight, bias])])
    torch.testing.assert_close(found[0], found[1], rtol=1e-11, atol=1e-11)


def test_means_far_from_zero_cost_no_digits() -> None:
    found = []
    for dtype in (torch.float32, torch.float64):
        x, weight, bias = (part.detach().to(dtype).requires_grad_() for part in parts())
        y = batch_normalised(x + 300, weight, bias, Statistics(1, len(x)))
        (gradient,) = torch.autograd.grad(y.sin().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(gradient.square().sum(), x)[0].double())
    torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=1e-2 * float(found[1].abs().max()))
