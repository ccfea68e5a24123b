"""Normalisation, ReLU and pooling in one pass give the numbers and derivatives of torch's operations."""

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
from autometa.learning.ops.norm_relu import normalised_relu
from autometa.learning.ops.statistics import Statistics
from tests.learning.ops.derivatives import assert_same, with_derivatives

needs_kernels = pytest.mark.skipif(not native.is_available(torch.float64), reason="no C compiler here")


@pytest.fixture
def without_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    def turn_off() -> None:
        monkeypatch.setenv("AUTOMETA_KERNELS", "off")
        native._library.cache_clear()

    yield turn_off
    monkeypatch.undo()
    native._library.cache_clear()


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
        return normalised_relu(x, weight, bias, Statistics(tasks, support), pool)

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
        return normalised_relu(x, weight, bias, Statistics(1, 6, given=(mean, var)), 2)

    assert_same(ours, theirs, [torch.randn(6, 5, 8, 8).double(), torch.randn(5).double(), torch.randn(5).double()])


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
        learner = Maml(Conv((1, 16, 16), width=8).double(), Setting(5, 10), inner_lr=0.1, inner_steps=3).double()
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
    averages = torch.zeros(8), torch.ones(8)
    y = normalised_relu(x, torch.ones(8), torch.zeros(8), Statistics(1, 4, averages=averages), 2)
    assert y[:, 3].isnan().all()
    assert averages[0][3].isnan()
    assert y[:, :3].isfinite().all()


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
