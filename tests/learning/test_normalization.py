"""Normalisation: whose images may influence whose, and gradients that are right to second order."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, grad, vmap

from autometa.errors import ConfigError
from autometa.learning.normalization import MODES, Layout, Norm

INDUCTIVE = [mode for mode in MODES if mode != "transductive"]


def feature_maps(tasks: int, images: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(tasks * images, 8, 3, 3, generator=torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("mode", INDUCTIVE)
def test_a_query_image_does_not_change_with_the_other_query_images(mode: str) -> None:
    norm = Norm(8, mode).double()
    norm(feature_maps(1, 12, seed=1))  # in training: averages that are not 0 and 1
    norm.eval()
    x = feature_maps(2, 7)
    layout = Layout(tasks=2, support=4)
    before = norm(x, layout).unflatten(0, (2, 7))
    changed = x.unflatten(0, (2, 7)).clone()
    changed[:, 5:] += 10  # all query images but the first
    after = norm(changed.flatten(0, 1), layout).unflatten(0, (2, 7))
    torch.testing.assert_close(after[:, :5], before[:, :5], rtol=0, atol=0)


def test_transductive_statistics_do_depend_on_the_query_set() -> None:
    norm = Norm(8, "transductive").eval()
    x = feature_maps(1, 7).float()
    changed = x.clone()
    changed[5:] += 10
    assert not torch.allclose(norm(x)[:5], norm(changed)[:5])


def test_support_statistics_are_those_of_each_task_alone() -> None:
    norm = Norm(8, "support").double()
    x = feature_maps(3, 6)
    out = norm(x, Layout(tasks=3, support=4)).unflatten(0, (3, 6))
    support = x.unflatten(0, (3, 6))[1, :4]
    expected = (x.unflatten(0, (3, 6))[1] - support.mean((0, 2, 3))[:, None, None]) / (
        support.var((0, 2, 3), correction=0)[:, None, None] + 1e-5
    ).sqrt()
    torch.testing.assert_close(out[1], expected)


def test_running_averages_are_those_of_batch_norm() -> None:
    ours, theirs = Norm(8, "running").double(), torch.nn.BatchNorm2d(8).double()
    for seed in range(3):
        x = feature_maps(1, 9, seed=seed)
        torch.testing.assert_close(ours(x), theirs(x))
    x = feature_maps(1, 9, seed=99)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_statistics_per_step_are_kept_apart() -> None:
    norm = Norm(8, "per_step").double()
    norm(feature_maps(1, 9), Layout(tasks=1, support=9, step=2))
    assert norm.running_mean[2].abs().sum() > 0
    assert norm.running_mean[[0, 1, 3]].abs().sum() == 0


@pytest.mark.parametrize("mode", MODES)
def test_second_order_gradients_under_vmap_equal_the_loop(mode: str) -> None:
    """`torch.func.vmap` over `F.batch_norm` fails this by 1e-4 to 1e-2 (torch 2.13)."""
    conv = torch.nn.Conv2d(2, 8, 3, padding=1).double()
    norm = Norm(8, mode).double()
    xs = torch.randn(4, 5, 2, 4, 4, generator=torch.Generator().manual_seed(5)).double()
    start = {name: p.detach() for name, p in conv.named_parameters()}
    layout = Layout(tasks=1, support=5)

    def loss(weights: dict, x: torch.Tensor) -> torch.Tensor:
        return norm(functional_call(conv, weights, (x,)), layout).tanh().pow(3).sum()

    def after_one_step(weights: dict, x: torch.Tensor) -> torch.Tensor:
        inner = grad(loss)(weights, x)
        return loss({k: w - 0.4 * inner[k] for k, w in weights.items()}, x)

    batched = vmap(grad(after_one_step), in_dims=(None, 0))(start, xs)
    for index, x in enumerate(xs):
        leaves = {k: w.clone().requires_grad_() for k, w in start.items()}
        inner = torch.autograd.grad(loss(leaves, x), list(leaves.values()), create_graph=True)
        adapted = {k: w - 0.4 * g for (k, w), g in zip(leaves.items(), inner, strict=True)}
        looped = torch.autograd.grad(loss(adapted, x), list(leaves.values()))
        for name, expected in zip(leaves, looped, strict=True):
            torch.testing.assert_close(batched[name][index], expected, rtol=1e-9, atol=1e-11)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match="norm = 'batch'"):
        Norm(8, "batch")
