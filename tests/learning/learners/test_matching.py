"""Matching networks against their equations, image by image."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.mlp import Mlp
from autometa.learning.learners.matching import FullContext, Matching
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Identity, Smooth, double


def attention_by_hand(query: np.ndarray, support: np.ndarray, scale: float) -> np.ndarray:
    """exp(scale·cos) of each support image, over their sum: [N·K], for one query image."""
    cosines = [query @ s / math.sqrt((query @ query) * (s @ s)) for s in support]
    weights = np.exp(scale * np.array(cosines))
    return weights / weights.sum()


def test_attention_is_a_softmax_of_cosines_and_sums_to_one_over_the_support() -> None:
    learner = Matching(Identity(), SETTING, scale=3.0).double()
    episodes = double(make_episodes(shot=2))
    attention = learner.log_attention(episodes).exp().detach()
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 12, dtype=torch.float64))
    for task in range(2):
        support, query = (x[task].flatten(1).numpy() for x in (episodes.support_x, episodes.query_x))
        expected = [attention_by_hand(q, support, 3.0) for q in query]
        np.testing.assert_allclose(attention[task], expected, rtol=1e-6)  # the scale's logarithm is kept in float32


def test_scores_are_the_log_of_what_a_class_gets_of_the_attention() -> None:
    learner = Matching(Identity(), SETTING, scale=1.5).double()
    episodes = double(make_episodes(batch=1, shot=3))
    attention = learner.log_attention(episodes).exp()[0]  # (N·Q, N·K)
    per_class = torch.stack([attention[:, episodes.support_y[0] == c].sum(-1) for c in range(3)], -1)
    torch.testing.assert_close(learner.scores(episodes)[0], per_class.log())


def test_a_sharp_attention_is_finite() -> None:
    scores = Matching(Identity(), SETTING, scale=1e5).scores(make_episodes())
    assert scores.isfinite().all()
    assert scores.min() < -1e4  # whose exponential is 0


@pytest.mark.parametrize("learned", [True, False])
def test_the_scale_is_learned_if_so_asked(learned: bool) -> None:
    learner = Matching(Smooth(), SETTING, scale=4.0, learned_scale=learned)
    learner.outer_step(Fixed(make_episodes()))
    assert (learner.log_scale.grad is not None) == learned
    assert float(learner.log_scale.detach().exp()) == pytest.approx(4.0)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm_step(gates: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hidden state and cell from the gates' inputs, in the order input, forget, cell, output."""
    i, f, g, o = np.split(gates, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def read_sequence(features: np.ndarray, weights: dict[str, np.ndarray], suffix: str) -> np.ndarray:
    """The states of an LSTM that reads [M, D] from the first to the last."""
    w = [weights[f"of_support.{name}_l0{suffix}"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    h = c = np.zeros(features.shape[1])
    states = []
    for x in features:
        h, c = lstm_step(w[0] @ x + w[1] @ h + w[2] + w[3], c)
        states.append(h)
    return np.array(states)


def full_context_by_hand(context: FullContext, support: np.ndarray, query: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """g of the support [M, D] and f of one query image [D] by the equations of appendix A."""
    w = {name: p.detach().numpy() for name, p in context.named_parameters()}
    g = read_sequence(support, w, "") + read_sequence(support[::-1], w, "_reverse")[::-1] + support
    size = len(query)
    # The paper's cell: its input is f', its recurrent weights [4·D, 2·D] act on the state [h, r].
    of_input = w["of_query.weight_ih"][:, :size]
    recurrent = np.concatenate([w["of_query.weight_hh"], w["of_query.weight_ih"][:, size:]], axis=1)
    h, c = query, np.zeros(size)
    for _ in range(context.steps):
        a = np.exp(g @ h)
        r = (a / a.sum()) @ g
        gates = of_input @ query + recurrent @ np.concatenate([h, r])
        state, c = lstm_step(gates + w["of_query.bias_ih"] + w["of_query.bias_hh"], c)
        h = state + query
    return g, h


@pytest.mark.parametrize("steps", [1, 4])
def test_full_context_embeddings_are_those_of_the_paper(steps: int) -> None:
    torch.manual_seed(14)
    context = FullContext(5, steps).double().eval()
    support, query = torch.randn(2, 6, 5).double(), torch.randn(2, 4, 5).double()
    g, f = (x.detach().numpy() for x in context(support, query))
    for task in range(2):
        for image in range(4):
            expected = full_context_by_hand(context, support[task].numpy(), query[task, image].numpy())
            np.testing.assert_allclose(g[task], expected[0], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(f[task, image], expected[1], rtol=1e-9, atol=1e-12)


def test_full_context_feeds_the_attention() -> None:
    torch.manual_seed(15)
    learner = Matching(Smooth(), SETTING, scale=2.0, full_context=True, context_steps=2).double().eval()
    task = double(make_episodes(batch=1))
    assert learner.context is not None
    g, f = learner.context(learner.backbone(task.support_x[0])[None], learner.backbone(task.query_x[0])[None])
    expected = [attention_by_hand(q, g[0].detach().numpy(), 2.0) for q in f[0].detach().numpy()]
    np.testing.assert_allclose(learner.log_attention(task)[0].exp().detach(), expected, rtol=1e-6)


def test_full_context_reads_in_a_random_order_only_while_training() -> None:
    torch.manual_seed(16)
    context = FullContext(5, 2).double()
    support = torch.randn(3, 6, 5).double()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randperm", lambda n, **_: order)
        trained = context.in_context(support)
    context.eval()
    assert torch.equal(context.in_context(support), context.in_context(support))
    assert not torch.allclose(context.in_context(support), trained)
    shuffled = context.in_context(support[:, order])
    torch.testing.assert_close(trained[:, order], shuffled)  # each image has its own embedding back


def with_orders(orders: int) -> Matching:
    torch.manual_seed(15)
    options: dict[str, Any] = {"full_context": True, "context_steps": 2, "orders": orders}
    return Matching(Smooth(), SETTING, **options).double().eval()


def test_attention_is_the_mean_over_fixed_random_orders() -> None:
    learner, task = with_orders(3), double(make_episodes(batch=1, shot=2))
    generator = torch.Generator().manual_seed(0)
    one = with_orders(0)
    expected = torch.zeros_like(one.log_attention(task)[0])
    for _ in range(3):
        order = torch.randperm(6, generator=generator)
        shuffled = EpisodeBatch(task.support_x[:, order], task.support_y[:, order], task.query_x, task.query_y, 3)
        expected[:, order] += one.log_attention(shuffled)[0].exp().detach() / 3  # given in another order
    torch.testing.assert_close(learner.log_attention(task)[0].exp().detach(), expected)
    assert not torch.allclose(one.log_attention(task)[0].exp().detach(), expected)


def test_random_orders_are_the_same_each_time_and_for_each_episode() -> None:
    learner, tasks = with_orders(4), double(make_episodes(batch=3))
    state = torch.get_rng_state()
    before = learner.query_logits(tasks)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(learner.query_logits(tasks), before)
    torch.testing.assert_close(learner.query_logits(tasks.episode(2))[0], before[2])


def test_of_many_orders_it_matters_less_which_class_has_which_number() -> None:
    def moved(orders: int) -> float:
        learner, task = with_orders(orders), double(make_episodes(batch=20, shot=2))
        order = torch.tensor([2, 0, 1])
        support = task.support_x.unflatten(1, (3, 2))[:, order].flatten(1, 2)
        other = EpisodeBatch(support, task.support_y, task.query_x, task.query_y, 3)
        change = learner.query_logits(other) - learner.query_logits(task)[..., order]
        return float(change.detach().square().mean())

    assert moved(64) < moved(0) / 4


def test_full_context_learns() -> None:
    learner = Matching(Smooth(), SETTING, full_context=True)
    learner.outer_step(Fixed(make_episodes()))
    assert learner.context is not None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in learner.context.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"scale": 0.0}, r"matching\.scale = 0\.0"), ({"context_steps": 17}, r"matching\.context_steps = 17")],
)
def test_options_of_matching_name_themselves(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Matching(Identity(), SETTING, **options)


def test_full_context_is_refused_for_many_features() -> None:
    with torch.device("meta"):
        assert Matching(Mlp((1, 8, 8), width=1024), SETTING, full_context=True).context is not None
        with pytest.raises(ConfigError, match=r"matching\.full_context = true: the backbone gives 1,025 features"):
            Matching(Mlp((1, 8, 8), width=1025), SETTING, full_context=True)
        Matching(Mlp((1, 8, 8), width=1025), SETTING)


def test_attention_ignores_the_length_of_features() -> None:
    learner = Matching(Identity(), SETTING).double()
    task = double(make_episodes())
    longer = EpisodeBatch(task.support_x * 7, task.support_y, task.query_x * 0.3, task.query_y, task.way)
    torch.testing.assert_close(learner.scores(longer), learner.scores(task))
    assert F.cross_entropy(learner.scores(task)[0], task.query_y[0]) > 0
