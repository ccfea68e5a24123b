"""Values with their first and second derivatives, for tests that compare two ways to compute them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[..., Tensor]


def with_derivatives(function: Function, inputs: list[Tensor]) -> list[Tensor]:
    """The value, its gradients, and the gradients of a mixture of these."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    directions = [torch.randn(x.shape, generator=torch.Generator().manual_seed(7)).to(x) for x in inputs]
    y = function(*inputs)
    first = torch.autograd.grad((y * y.sin()).sum(), inputs, create_graph=True)
    mixture = sum((g * d).sum() for g, d in zip(first, directions, strict=True))
    assert isinstance(mixture, Tensor)
    return [y, *first, *torch.autograd.grad(mixture, inputs)]


def assert_same(ours: Function, theirs: Function, inputs: list[Tensor]) -> None:
    for a, b in zip(with_derivatives(ours, inputs), with_derivatives(theirs, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
