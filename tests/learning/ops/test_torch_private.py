"""What this package uses of torch without a public name there does what it is used for.

A failure here means that torch has changed: `learning/ops/torch_private.py` is where to follow it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from autometa.learning.ops.torch_private import COUNTED, are_stacked, is_transformed


def test_transforms_are_seen() -> None:
    plain, seen = torch.randn(3, 2), []

    def inside(x: Tensor) -> Tensor:
        seen.append((is_transformed(x), are_stacked(x), are_stacked(x, plain)))
        return x.sum()

    inside(plain)
    torch.vmap(inside)(plain)
    torch.func.grad(inside)(plain)
    torch.vmap(torch.func.grad(inside))(plain)
    assert seen == [(False, False, False), (True, True, False), (True, False, False), (True, False, False)]


def test_operators_are_those_that_public_functions_dispatch() -> None:
    a, b = torch.randn(4, 5, requires_grad=True), torch.randn(6, 5)
    query = torch.randn(1, 2, 4, 8, requires_grad=True)
    called = set()

    def noted(name: str) -> object:
        return lambda *_, **__: called.add(name) or 0

    with FlopCounterMode(display=False, custom_mapping={op: noted(name) for name, op in COUNTED.items()}):
        torch.cdist(a, b, p=1).sum().backward()
        torch.nn.functional.scaled_dot_product_attention(query, query, query).sum().backward()
    # Those of cuDNN are dispatched on a GPU alone; that they are there was found when the file was imported.
    assert called == {name for name in COUNTED if not name.startswith("cudnn")}
