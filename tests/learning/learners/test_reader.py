"""The reader: who sees whom, one layer by hand, and that it learns labels that mean nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.conv import Conv
from autometa.learning.learners.reader import Layer, Reader, visible
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Identity, Smooth, double


def randomised(learner: Reader) -> Reader:
    """The learner in float64 with weights that nothing is special about."""
    torch.manual_seed(6)
    for parameter in learner.parameters():
        if parameter.dim() > 1 or parameter is learner.unknown:
            nn.init.normal_(parameter, std=0.2)
    return learner.double().eval()


def test_a_query_is_read_as_if_it_were_alone() -> None:
    learner = randomised(Reader(Smooth(), SETTING, dim=16, depth=3))
    episodes = double(make_episodes(query=2))
    together = learner.query_logits(episodes)
    for q in range(6):
        alone = dataclasses.replace(
            episodes, query_x=episodes.query_x[:, q : q + 1], query_y=episodes.query_y[:, q : q + 1]
        )
        torch.testing.assert_close(learner.query_logits(alone)[:, 0], together[:, q])


def test_no_gradient_flows_from_one_query_to_another() -> None:
    learner = randomised(Reader(Smooth(), SETTING, dim=16, depth=3))
    episodes = double(make_episodes(query=2))
    queries = episodes.query_x.clone().requires_grad_()
    learner.query_logits(dataclasses.replace(episodes, query_x=queries))[:, 3].square().sum().backward()
    touched = queries.grad.abs().amax((0, 2, 3, 4)) > 0  # type: ignore[union-attr]
    assert touched.tolist() == [False, False, False, True, False, False]


def test_the_support_set_is_a_set() -> None:
    learner = randomised(Reader(Smooth(), SETTING, dim=16, depth=2))
    episodes = double(make_episodes(shot=3))
    order = torch.tensor([8, 3, 0, 5, 1, 7, 2, 6, 4])
    shuffled = EpisodeBatch(
        episodes.support_x[:, order], episodes.support_y[:, order], episodes.query_x, episodes.query_y, episodes.way
    )
    torch.testing.assert_close(learner.query_logits(shuffled), learner.query_logits(episodes))


def test_attention_is_shared_out_over_the_support_set_and_the_token_itself() -> None:
    layer, tokens = Layer(12, 3, 0.0), torch.randn(2, 9, 12)
    weights = layer.weights(tokens, visible(5, 9, tokens.device))
    assert weights.shape == (2, 3, 9, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 9))
    seen = (weights > 0).all(0).all(0)
    for token in range(9):
        assert seen[token].nonzero().flatten().tolist() == [0, 1, 2, 3, 4, *([token] if token >= 5 else [])]


def test_one_layer_with_one_head_is_its_equations() -> None:
    learner = randomised(Reader(Identity(), SETTING, dim=8, depth=1, heads=1, max_way=7))
    episodes = double(make_episodes(batch=1, shot=2, query=2))
    w = {name: tensor.numpy() for name, tensor in learner.state_dict().items()}
    names = w["labels"][:3]

    def feature(image: torch.Tensor) -> np.ndarray:
        return normal(w["project.0.weight"] @ image.flatten().numpy() + w["project.0.bias"])

    def normal(x: np.ndarray) -> np.ndarray:
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5)

    def gelu(x: np.ndarray) -> np.ndarray:
        return x * torch.distributions.Normal(0, 1).cdf(torch.tensor(x)).numpy()

    support = [np.append(feature(image), names[i // 2]) for i, image in enumerate(episodes.support_x[0])]
    for q, image in enumerate(episodes.query_x[0]):
        token = np.append(feature(image), w["unknown"])
        seen = [normal(t) for t in [*support, token]]
        asked = w["layers.0.query.weight"] @ seen[-1]
        similar = np.exp([asked @ (w["layers.0.key.weight"] @ t) / np.sqrt(8) for t in seen])
        read = sum(s * (w["layers.0.value.weight"] @ t) for s, t in zip(similar / similar.sum(), seen, strict=True))
        token = token + w["layers.0.out.weight"] @ read
        inner = gelu(w["layers.0.widen.weight"] @ normal(token) + w["layers.0.widen.bias"])
        token = token + w["layers.0.narrow.weight"] @ inner + w["layers.0.narrow.bias"]
        expected = names @ normal(token)[4:] / np.sqrt(4)
        np.testing.assert_allclose(learner.query_logits(episodes)[0, q].detach().numpy(), expected, rtol=1e-8)


def test_label_embeddings_are_orthogonal_and_drawn_anew_in_training_alone() -> None:
    torch.manual_seed(0)
    learner, episodes = Reader(Smooth(), SETTING, dim=24, max_way=10), make_episodes()
    torch.testing.assert_close(learner.labels @ learner.labels.T, 12 * torch.eye(10), atol=1e-4, rtol=0)
    drawn = torch.stack([learner._label_embeddings(episodes) for _ in range(200)]).flatten(0, 1)  # (400, 3, 12)
    rows = (drawn @ learner.labels.T).argmax(-1)
    assert set(rows.flatten().tolist()) == set(range(10))
    assert all(len(set(row)) == 3 for row in rows.tolist())
    learner.eval()
    assert torch.equal(learner.query_logits(episodes), learner.query_logits(episodes))
    assert torch.equal(learner._label_embeddings(episodes)[1], learner.labels[:3])


def test_it_learns_to_read_labels_that_change_from_step_to_step() -> None:
    torch.manual_seed(3)
    learner = Reader(Conv((2, 8, 8), depth=2, width=8, norm="group"), SETTING, dim=64, drop_rate=0.1)
    optimizer = torch.optim.Adam(learner.parameters(), lr=0.003)
    episodes, losses = make_episodes(batch=4), []
    for _ in range(40):
        optimizer.zero_grad()
        losses.append(float(learner.outer_step(Fixed(episodes))["loss"]))
        optimizer.step()
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    learner.eval()
    assert learner.loss(episodes)[1]["accuracy"] > 0.8  # with the labels of evaluation, too


def test_it_reads_any_way_up_to_the_largest() -> None:
    learner = Reader(Identity(), SETTING, dim=6, heads=2, max_way=8).eval()  # more labels than directions
    assert learner.query_logits(make_episodes(way=8)).shape == (2, 32, 8)
    with pytest.raises(ConfigError, match=r"reader\.max_way = 8: it must be at least the way of an episode, 9"):
        learner.query_logits(make_episodes(way=9))


@pytest.mark.parametrize(
    "options",
    [
        {"dim": 0},
        {"depth": 0},
        {"dim": 9, "heads": 3},
        {"dim": 16, "heads": 3},
        {"drop_rate": 1.0},
        {"max_way": 0},
        {"max_way": 2},
    ],
)
def test_an_option_out_of_range_names_itself(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"reader\.{next(iter(options))} = "):
        Reader(Identity(), SETTING, **options)  # type: ignore[arg-type]
