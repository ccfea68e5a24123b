"""The fused convolution, normalisation, ReLU and pooling give the numbers and derivatives of torch's operations."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.learning.backbones.conv import Conv
from autometa.learning.learner import Setting
from autometa.learning.learners.maml import Maml
from autometa.learning.normalization import MODES, Layout, Norm
from autometa.learning.ops import native
from autometa.learning.ops.norm_relu import Statistics, channels_last, convolved, normalised_relu

Function = Callable[..., Tensor]
needs_kernels = pytest.mark.skipif(not native.is_available(torch.float64), reason="no C compiler here")


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    def turn_off() -> None:
        monkeypatch.setenv("AUTOMETA_KERNELS", "off")
        native._library.cache_clear()

    yield turn_off
    monkeypatch.undo()
    native._library.cache_clear()


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


@needs_kernels
@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize(
    ("tasks", "support", "height", "width", "channels"),
    [(1, 6, 8, 8, 5), (1, 4, 9, 7, 5), (3, 1, 7, 6, 16), (2, 2, 2, 3, 33), (1, 6, 5, 5, 1)],
)
def test_first_and_second_derivatives_are_those_of_torch(
    tasks: int, support: int, height: int, width: int, channels: int, pool: int
) -> None:
    def theirs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        blocks = x.unflatten(0, (tasks, -1))
        var, mean = torch.var_mean(blocks[:, :support], (1, 3, 4), correction=0, keepdim=True)
        y = (blocks - mean) * (var + 1e-5).rsqrt() * weight[:, None, None] + bias[:, None, None]
        return F.relu(F.max_pool2d(y.flatten(0, 1), pool))

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return normalised_relu(x, weight, bias, Statistics(tasks, support), pool)[0]

    torch.manual_seed(0)
    inputs = [torch.randn(6, channels, height, width), torch.randn(channels), torch.randn(channels)]
    assert_same(ours, theirs, [x.double() for x in inputs])  # some scales are negative


@needs_kernels
def test_given_statistics_are_constants() -> None:
    torch.manual_seed(0)
    mean, var = torch.randn(5).double(), torch.rand(5).double() + 0.5

    def theirs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.relu(F.max_pool2d(F.batch_norm(x, mean, var, weight, bias, False), 2))

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return normalised_relu(x, weight, bias, Statistics(1, 6, mean, var), 2)[0]

    assert_same(ours, theirs, [torch.randn(6, 5, 8, 8).double(), torch.randn(5).double(), torch.randn(5).double()])


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


@needs_kernels
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_each_norm_is_the_same_with_and_without_kernels(
    mode: str, training: bool, without_kernels: Callable[[], None]
) -> None:
    def results() -> list[Tensor]:
        torch.manual_seed(0)
        norm = Norm(8, mode).double()
        nn.init.normal_(norm.weight)
        x = torch.randn(12, 8, 6, 6).double()
        layout = Layout(tasks=2, support=3, step=1)
        norm.then_relu(x + 1, layout, pool=2)  # averages that are not 0 and 1
        norm.train(training)
        found = with_derivatives(lambda x: norm.then_relu(x, layout, pool=2), [x])
        with torch.no_grad():
            found.append(norm.then_relu(x, layout, pool=2))
        return [*found, norm.running_mean, norm.running_var]

    with_them = results()
    without_kernels()
    for a, b in zip(with_them, results(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@needs_kernels
def test_second_order_maml_has_the_same_gradient_with_and_without_kernels(without_kernels: Callable[[], None]) -> None:
    def gradient() -> list[Tensor]:
        torch.manual_seed(0)
        learner = Maml(Conv((1, 16, 16), width=8).double(), Setting(5, 10), inner_rate=0.1, inner_steps=3).double()
        for index in range(2):
            loss, _ = learner.task_loss(episodes.episode(index))
            loss.backward()
        return [p.grad for p in learner.parameters() if p.grad is not None]

    labels = torch.arange(5)
    episodes = EpisodeBatch(
        support_x=torch.randn(2, 5, 1, 16, 16).double(),
        support_y=labels.expand(2, -1),
        query_x=torch.randn(2, 10, 1, 16, 16).double(),
        query_y=labels.repeat(2).expand(2, -1),
        way=5,
    )
    with_them = gradient()
    without_kernels()
    for a, b in zip(with_them, gradient(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@needs_kernels
def test_what_is_not_a_number_stays_so() -> None:
    x = torch.randn(4, 8, 6, 6)
    x[0, 3, 2, 2] = float("nan")
    y, mean, _ = normalised_relu(x, torch.ones(8), torch.zeros(8), Statistics(1, 4), 2)
    assert y[:, 3].isnan().all()
    assert mean[0, 3].isnan()
    assert y[:, :3].isfinite().all()


def test_one_channel_has_strides_of_channels_last() -> None:
    images = torch.randn(4, 1, 6, 5)
    same = channels_last(images)
    assert torch.equal(same, images)
    assert same.stride() == (30, 1, 5, 1)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_there_is_a_compiler_there_are_kernels(dtype: torch.dtype) -> None:
    assert native.is_available(dtype)


@needs_kernels
def test_two_processes_at_once_may_compile(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    import multiprocessing

    monkeypatch.setenv("AUTOMETA_CACHE", str(tmp_path))
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        assert pool.map(native.is_available, [torch.float32] * 2) == [True, True]
