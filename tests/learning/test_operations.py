"""Operations are counted by what is done, not by how it is put together."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from autometa.learning.backbones.conv import Conv
from autometa.learning.inner_loop import TaskLearner
from autometa.learning.learners.boil import Boil
from autometa.learning.learners.maml import Maml
from autometa.learning.operations import operations_counter
from autometa.learning.ops.torch_private import COUNTED
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed


def of_a_step(learner: TaskLearner, at_once: int) -> int:
    learner.tasks_at_once = at_once
    with operations_counter() as counter:
        learner.outer_step(Fixed(make_episodes(batch=4)))
    return counter.get_total_flops()


@pytest.mark.parametrize("norm", ["per_step", "support"])
@pytest.mark.parametrize("kind", [Maml, Boil])
def test_tasks_together_do_as_many_as_one_after_the_other(kind: type[Maml | Boil], norm: str) -> None:
    learner = kind(Conv((2, 8, 8), depth=2, width=8, norm=norm), SETTING, inner_steps=3)
    alone = of_a_step(learner, 1)
    assert [of_a_step(learner, 2), of_a_step(learner, 4)] == [alone, alone]


@pytest.mark.parametrize(("groups", "stride"), [(1, 1), (1, 2), (6, 1), (3, 2)])
def test_a_convolutions_gradients_cost_as_much_as_itself_each(groups: int, stride: int) -> None:
    conv = nn.Conv2d(6, 12, 3, padding=1, stride=stride, groups=groups, bias=False)
    x = torch.randn(2, 6, 8, 8, requires_grad=True)
    with operations_counter() as forward:
        y = conv(x)
    assert forward.get_total_flops() == 2 * y.numel() * 9 * 6 // groups
    with operations_counter() as backward:
        y.sum().backward()
    assert backward.get_total_flops() == 2 * forward.get_total_flops()


def test_a_transposed_convolution_is_counted_too() -> None:
    conv, x = nn.ConvTranspose2d(3, 4, 3, bias=False), torch.randn(2, 3, 5, 5)
    with operations_counter() as counter:
        conv(x).sum().backward()
    assert counter.get_total_flops() == 2 * (2 * 2 * 5 * 5 * 3 * 4 * 9)


def test_a_recurrent_layer_counts_as_the_products_it_is_made_of() -> None:
    """Without oneDNN torch takes the layer apart into products of matrices, which its own counter counts."""
    lstm, x = nn.LSTM(5, 7, bidirectional=True, batch_first=True), torch.randn(4, 6, 5, requires_grad=True)
    counts = []
    for together in (True, False):
        with torch.backends.mkldnn.flags(enabled=together), operations_counter() as counter:
            found = lstm(x)[0]
            forward = counter.get_total_flops()
            found.sum().backward()
        counts.append((forward, counter.get_total_flops()))
        assert ("mkldnn" in str(counter.get_flop_counts())) == together
    assert counts[0] == counts[1]
    assert counts[0][0] == 2 * (2 * 4 * 6 * (4 * 7) * (5 + 7))


def test_a_recurrent_layer_counts_on_a_gpu_as_on_a_cpu() -> None:
    """Of both shapes in which cuDNN gets its inputs; there is none here to ask."""
    with operations_counter() as counter:
        formulas = counter.flop_registry
    aten = torch.ops.aten
    x, state, both = torch.empty(6, 4, 5), torch.empty(4, 7), torch.empty(2, 4, 7)
    layer = [torch.empty(28, 5), torch.empty(28, 7), torch.empty(28), torch.empty(28)]
    one = formulas[aten.mkldnn_rnn_layer](x, *layer, state, state)
    one_back = formulas[aten.mkldnn_rnn_layer_backward](x, *layer, state, state)
    for inputs in (x, x.transpose(0, 1)):
        assert formulas[COUNTED["cudnn_layers"]](inputs, layer + layer, 4, None, both, both) == 2 * one
        assert formulas[COUNTED["cudnn_layers_backward"]](inputs, layer + layer, 4, None, both, both) == 2 * one_back


@pytest.mark.parametrize("queries", [5, 3])
def test_attention_in_one_operation_counts_as_the_products_it_is_made_of(queries: int) -> None:
    query, key, value = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (queries, 5, 5))
    found = {}
    for kernel in (SDPBackend.FLASH_ATTENTION, SDPBackend.MATH):
        with sdpa_kernel(kernel), operations_counter() as counter:
            read = F.scaled_dot_product_attention(query, key, value)
            forward = counter.get_total_flops()
            assert ("flash" in str(counter.get_flop_counts())) == (kernel is SDPBackend.FLASH_ATTENTION)
            read.sum().backward()
        found[kernel] = (forward, counter.get_total_flops() - forward)
    scores = 2 * (2 * 3 * queries * 5 * 8)
    assert found[SDPBackend.MATH] == (2 * scores, 4 * scores)
    assert found[SDPBackend.FLASH_ATTENTION] == (2 * scores, 5 * scores), "the scores are made once more"


def test_linear_systems_are_counted_by_their_order_and_right_sides() -> None:
    a = torch.eye(6).expand(4, 6, 6).clone()
    right = torch.ones(4, 6, 3, requires_grad=True)
    with operations_counter() as counter:
        found = torch.cholesky_solve(right, torch.linalg.cholesky_ex(a).L)
        forward = counter.get_total_flops()
        found.sum().backward()  # another system with the same factor
    assert forward == 4 * (6**3 // 3 + 2 * 6**2 * 3)
    assert counter.get_total_flops() - forward == 4 * 2 * 6**2 * 3


def test_distances_are_counted_by_pairs_and_features() -> None:
    x, y = torch.randn(2, 7, 5, requires_grad=True), torch.randn(2, 4, 5, requires_grad=True)
    with operations_counter() as counter:
        torch.cdist(x, y, p=1).sum().backward()
    assert counter.get_total_flops() == 3 * (3 * 2 * 7 * 4 * 5)
