"""Meta networks against their equations, task by task and image by image."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.learning.backbones.conv import Conv
from autometa.learning.learners.lstm import preprocessed
from autometa.learning.learners.meta_networks import MetaNetworks, representation_gradients
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Smooth, double


def make_learner(seed: int) -> MetaNetworks:
    """One whose fast weights are not small."""
    torch.manual_seed(seed)
    learner = MetaNetworks(Smooth(), SETTING, hidden=7, attention_scale=3.0).double()
    with torch.no_grad():
        for generator in (learner.fast_of_representation, learner.fast_of_base):
            generator.layers[2].weight.normal_()
    return learner


def by_equations(learner: MetaNetworks, task: EpisodeBatch) -> Tensor:
    """Algorithm 1 for a task: [N·Q, N]."""
    z, x = learner.backbone(task.support_x[0]), learner.backbone(task.query_x[0])
    labels, way = task.support_y[0], task.way
    Q = learner.slow.weight
    d, m = learner.fast_of_representation.layers, learner.fast_of_base.layers
    fast = torch.zeros_like(Q)
    for gradient in representation_gradients(z[:: task.shot][None], Q)[0]:
        fast = fast + d(preprocessed(gradient))[..., 0] / way
    memory, keys = [], []
    for image, label in zip(z, labels, strict=True):
        W = torch.zeros(way, 7).double().requires_grad_()
        loss = F.cross_entropy((W @ learner.base(image).relu().detach())[None], label[None])
        (gradient,) = torch.autograd.grad(loss, W)
        memory.append(m(preprocessed(gradient))[..., 0])
        keys.append(F.leaky_relu((Q + fast) @ image, 0.1))
    rows = []
    for image in x:
        r = F.leaky_relu((Q + fast) @ image, 0.1)
        a = torch.stack([3.0 * F.cosine_similarity(r, key, dim=0) for key in keys]).softmax(0)
        W = sum((weight * part for weight, part in zip(a, memory, strict=True)), torch.zeros(way, 7).double())
        rows.append(W @ learner.base(image).relu())
    return torch.stack(rows)


def test_scores_and_gradients_are_those_of_the_equations() -> None:
    learner = make_learner(4)
    episodes = double(make_episodes(batch=2))
    expected = torch.stack([by_equations(learner, episodes.episode(i)) for i in range(2)])
    torch.testing.assert_close(learner.scores(episodes), expected)
    loss = F.cross_entropy(expected.flatten(0, 1), episodes.query_y.flatten())
    gradients = torch.autograd.grad(loss, list(learner.parameters()))
    learner.outer_step(Fixed(episodes))
    for (name, parameter), gradient in zip(learner.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, msg=name)


def test_the_addends_of_the_representation_gradient_sum_to_it() -> None:
    torch.manual_seed(5)
    features, slow = torch.randn(2, 4, 6).double(), torch.randn(5, 6).double()
    found = representation_gradients(features, slow)
    assert found.shape == (2, 4, 5, 6)
    for task in range(2):
        Q = slow.clone().requires_grad_()
        r = [F.leaky_relu(Q @ x, 0.1) for x in features[task]]
        loss = torch.zeros(()).double()
        for own in range(4):
            cosines = torch.stack([F.cosine_similarity(r[own], other, dim=0) for other in r])
            loss = loss + F.cross_entropy(10 * cosines[None], torch.tensor([own]))
        torch.testing.assert_close(found[task].sum(0), torch.autograd.grad(loss, Q)[0])


def test_attention_sums_to_one_and_prefers_the_same_image() -> None:
    learner = make_learner(6)
    features = torch.randn(2, 6, 5).double()
    keys = learner.represent(features, torch.randn(2, 7, 5).double())
    attention = learner.attention(keys, keys)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 6).double())
    assert (attention.argmax(-1) == torch.arange(6)).all()


def test_without_fast_weights_the_slow_network_is_left() -> None:
    learner = make_learner(7)
    for generator in (learner.fast_of_representation, learner.fast_of_base):
        torch.nn.init.zeros_(generator.layers[2].weight)
        torch.nn.init.zeros_(generator.layers[2].bias)
    features = torch.randn(2, 6, 5).double()
    fast = learner.representation_weights(features[:, ::2])
    slow = F.leaky_relu(features @ learner.slow.weight.T, 0.1)
    torch.testing.assert_close(learner.represent(features, fast), slow)
    # The slow softmax layer is zero: all classes are equally likely.
    assert not learner.scores(double(make_episodes())).any()


def test_any_way_can_be_evaluated_without_gradients() -> None:
    learner = make_learner(8).eval()
    episodes = double(make_episodes(way=4, shot=3))
    with torch.no_grad():
        scores = learner.query_logits(episodes)
    assert scores.shape == (2, 16, 4)
    assert not scores.requires_grad
    torch.testing.assert_close(scores, learner.query_logits(episodes).detach())


@pytest.mark.parametrize("seed", range(3))
def test_the_representation_generator_goes_on_learning(seed: int) -> None:
    """On features that are not negative, where fast weights turn negative together and a ReLU would be dead."""
    torch.manual_seed(seed)
    learner = MetaNetworks(Conv((2, 8, 8), depth=2, width=8), SETTING, hidden=16)
    optimizer = torch.optim.Adam(learner.parameters(), lr=2e-3)
    for step in range(60):
        optimizer.zero_grad()
        learner.outer_step(Fixed(make_episodes(seed=100 * seed + step)))
        optimizer.step()
    assert all(p.grad is not None and p.grad.any() for p in learner.fast_of_representation.parameters())


def test_a_step_keeps_nothing_of_the_representation_generators_units() -> None:
    learner, way = make_learner(9), 6
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        learner.representation_weights(torch.randn(2, way, 5).double())
    assert sum(kept) < 5 * (2 * way * 7 * 5)  # of 22 and more for each coordinate of (B, N, H, D)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fast_weights_keep_the_dtype(dtype: torch.dtype) -> None:
    assert representation_gradients(torch.randn(1, 3, 4, dtype=dtype), torch.randn(2, 4, dtype=dtype)).dtype == dtype
