"""A block in one call gives the numbers and derivatives of torch's operations."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.learning.ops import native
from autometa.learning.ops.block import block, can_run_block, every_operation_visible
from autometa.learning.ops.statistics import EPSILON, Statistics

Function = Callable[..., Tensor]
pytestmark = pytest.mark.skipif(not native.is_available(torch.float64), reason="no C compiler here")


def reference(
    images: Tensor, filters: Tensor, weight: Tensor, bias: Tensor, statistics: Statistics, pool: int
) -> Tensor:
    blocks = F.conv2d(images, filters, padding=1).unflatten(0, (statistics.tasks, -1))
    if statistics.given is None:
        var, mean = torch.var_mean(blocks[:, : statistics.support], (1, 3, 4), correction=0, keepdim=True)
    else:
        mean, var = (s[:, None, None] for s in statistics.given)
    y = (blocks - mean) * (var + EPSILON).rsqrt() * weight[:, None, None] + bias[:, None, None]
    return F.relu(F.max_pool2d(y.flatten(0, 1), pool))


def with_derivatives(function: Function, images: Tensor, others: list[Tensor], of_images: bool) -> list[Tensor]:
    """The value, its gradients, and the gradients of a mixture of these."""
    images = images.clone().requires_grad_(of_images)
    inputs = [x.clone().requires_grad_() for x in others]
    asked = [images, *inputs] if of_images else inputs
    directions = [torch.randn(x.shape, generator=torch.Generator().manual_seed(7)).to(x) for x in asked]
    y = function(images, *inputs)
    first = torch.autograd.grad((y * y.sin()).sum(), asked, create_graph=True)
    mixture = torch.stack([(g * d).sum() for g, d in zip(first, directions, strict=True)]).sum()
    return [y, *first, *torch.autograd.grad(mixture, asked)]


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize(
    ("tasks", "support", "inputs", "outputs", "height", "width"),
    [
        (1, 6, 1, 16, 8, 8),
        (2, 2, 3, 32, 9, 7),
        (3, 1, 16, 48, 5, 19),
        (1, 4, 32, 16, 14, 3),
        (2, 3, 16, 16, 2, 21),
        (1, 6, 16, 32, 11, 1),
    ],
)
def test_values_and_derivatives_are_those_of_torch(
    tasks: int, support: int, inputs: int, outputs: int, height: int, width: int, pool: int, given: bool
) -> None:
    if min(height, width) < pool:
        pytest.skip("no whole window")
    torch.manual_seed(0)
    images, filters = torch.randn(6, inputs, height, width).double(), torch.randn(outputs, inputs, 3, 3).double()
    norm = [torch.randn(outputs).double(), torch.randn(outputs).double()]  # some scales are negative
    known = (torch.randn(outputs).double(), torch.rand(outputs).double() + 0.5) if given else None
    statistics = Statistics(1 if given else tasks, support, known)
    of_images = inputs % 16 == 0

    def found(function: Function) -> list[Tensor]:
        return with_derivatives(lambda *of: function(*of, statistics, pool), images, [filters, *norm], of_images)

    for a, b in zip(found(lambda *of: block(*of)[0]), found(reference), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-8)


def test_threads_do_not_change_the_sums() -> None:
    torch.manual_seed(0)
    images, filters = torch.randn(37, 3, 12, 12), torch.randn(32, 3, 3, 3)
    norm = [torch.randn(32), torch.randn(32)]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            function = lambda *of: block(*of, Statistics(1, 37), 2)[0]  # noqa: E731
            found.append(with_derivatives(function, images, [filters, *norm], False))
    finally:
        torch.set_num_threads(before)
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


# In a process of its own: this has written behind the end of its memory.
_OTHER_THREADS = """
import sys
import torch
from autometa.learning.ops.block import block
from autometa.learning.ops.statistics import Statistics

torch.manual_seed(0)
images, filters = torch.randn(37, 16, 12, 12), torch.randn(32, 16, 3, 3).requires_grad_()
norm = torch.randn(32), torch.randn(32)
found = set()
for forward, backward in [(1, 1), (1, 8), (8, 1)]:
    torch.set_num_threads(forward)
    y = block(images, filters, *norm, Statistics(1, 37), 2)[0]
    torch.set_num_threads(backward)
    (first,) = torch.autograd.grad((y * y.sin()).sum(), filters, create_graph=True)
    (second,) = torch.autograd.grad((first * first).sum(), filters)
    found.add((first.sum().item(), second.sum().item()))
sys.exit(len(found) != 1)
"""


def test_the_backward_pass_may_have_more_threads_than_the_forward_pass() -> None:
    patient = {**os.environ, "OMP_WAIT_POLICY": "passive"}  # threads that spin take minutes on a few cores
    done = subprocess.run([sys.executable, "-c", _OTHER_THREADS], env=patient, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_gradient_the_same_maps_come_out() -> None:
    torch.manual_seed(0)
    images, filters = torch.randn(8, 16, 10, 10), torch.randn(16, 16, 3, 3, requires_grad=True)
    call = (torch.randn(16), torch.randn(16), Statistics(2, 3), 2)
    y, mean, var = block(images, filters, *call)
    with torch.no_grad():
        for a, b in zip(block(images, filters, *call), (y, mean, var), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("inputs", [1, 3, 16])
def test_images_may_lie_in_memory_in_any_way(inputs: int) -> None:
    torch.manual_seed(0)
    filters, call = torch.randn(16, inputs, 3, 3), (torch.randn(16), torch.randn(16), Statistics(1, 4), 1)
    straight = torch.randn(4, inputs, 8, 6)
    for odd in (straight.mT.contiguous().mT, straight.repeat(2, 1, 1, 1)[::2], straight[:1].expand(4, -1, -1, -1)):
        for a, b in zip(block(odd, filters, *call), block(odd.contiguous(), filters, *call), strict=True):
            assert torch.equal(a, b)


def is_block(images: Tensor, conv: nn.Conv2d) -> bool:
    channels = conv.out_channels
    return can_run_block(images, conv, torch.ones(channels), torch.zeros(channels), Statistics(1, len(images)), 2)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(16, 20, 3, padding=1, bias=False),
        nn.Conv2d(16, 2048, 3, padding=1, bias=False),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.Conv2d(16, 16, 3, padding=0, bias=False),
        nn.Conv2d(16, 16, 5, padding=2, bias=False),
        nn.Conv2d(16, 16, 3, padding=1, bias=False, stride=2),
        nn.Conv2d(16, 16, 3, padding=1, bias=False, groups=2),
        nn.Conv2d(16, 16, 3, padding=1, bias=False).double(),
    ],
)
def test_what_the_kernels_cannot_do_they_are_not_given(conv: nn.Conv2d) -> None:
    images = torch.randn(2, 16, 8, 8)
    assert is_block(images, nn.Conv2d(16, 16, 3, padding=1, bias=False))
    assert not is_block(images, conv)


def test_few_input_channels_give_no_gradient_in_the_images() -> None:
    conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    images = torch.randn(2, 3, 8, 8)
    assert is_block(images, conv)
    assert not is_block(images.requires_grad_(), conv)


def test_whoever_counts_operations_sees_them_all() -> None:
    conv, images = nn.Conv2d(3, 16, 3, padding=1, bias=False), torch.randn(2, 3, 8, 8)
    with every_operation_visible():
        assert not is_block(images, conv)
    assert is_block(images, conv)
