"""The convolution with a second derivative of its own gives torch's numbers and derivatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from autometa.learning.ops.convolution import convolved
from tests.learning.ops.derivatives import Function, assert_same


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_convolution_is_differentiated_twice(kernel: int, bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, kernel, padding=kernel // 2, bias=bias).double()
    parameters = [p.detach() for p in conv.parameters()]

    def with_weights(how: Callable[[nn.Conv2d, Tensor], Tensor]) -> Function:
        def function(x: Tensor, *weights: Tensor) -> Tensor:
            found = torch.func.functional_call(_Called(conv, how), {f"conv.{n}": w for n, w in named(weights)}, (x,))
            assert isinstance(found, Tensor)
            return found

        return function

    def named(weights: tuple[Tensor, ...]) -> list[tuple[str, Tensor]]:
        return list(zip([name for name, _ in conv.named_parameters()], weights, strict=True))

    images = torch.randn(3, 2, 6, 5).double()
    assert_same(with_weights(lambda c, x: convolved(x, c)), with_weights(lambda c, x: c(x)), [images, *parameters])


class _Called(nn.Module):
    def __init__(self, conv: nn.Conv2d, how: Callable[[nn.Conv2d, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.how = conv, how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self.conv, x)
