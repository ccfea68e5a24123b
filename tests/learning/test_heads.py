"""Heads on fixed features against scikit-learn, and transductive starts against their definitions."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import nn
from torch.nn import functional as F

from autometa.errors import ConfigError
from autometa.learning.backbones.conv import Conv
from autometa.learning.heads import cosine_classifier, logistic, nearest_mean, ridge
from autometa.learning.learner import Learner
from autometa.learning.learners.pretrain import Pretrain
from autometa.learning.learners.prototypical import Prototypical
from autometa.learning.transduction import check_kind, confident, transductive_scores, votes
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Identity, double


def labelled(images: int = 12, width: int = 5, way: int = 3, seed: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [1, M, D] and one-hot targets [1, M, N]."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(images) % way
    centres = torch.randn(way, width, generator=generator, dtype=torch.float64)
    features = centres[labels] + torch.randn(images, width, generator=generator, dtype=torch.float64)
    return features[None], F.one_hot(labels, way).double()[None]


def test_the_logistic_head_is_scikit_learns() -> None:
    features, targets = labelled()
    unit = F.normalize(features, dim=-1)
    theirs = LogisticRegression(C=1 / 0.7, tol=1e-10, max_iter=5000).fit(unit[0].numpy(), targets[0].argmax(-1).numpy())
    ours = logistic(unit, targets, steps=3000, penalty=0.7)(unit)[0].softmax(-1)
    np.testing.assert_allclose(ours.numpy(), theirs.predict_proba(unit[0].numpy()), atol=1e-6)


def test_an_image_that_counts_twice_is_an_image_given_twice() -> None:
    features, targets = labelled()
    unit = F.normalize(features, dim=-1)
    weighted = targets.clone()
    weighted[:, 3] *= 2
    twice = torch.cat([unit, unit[:, 3:4]], 1), torch.cat([targets, targets[:, 3:4]], 1)
    for fit in (
        lambda f, t: logistic(f, t, steps=50, penalty=1.0),
        lambda f, t: nearest_mean(f, t, metric="cosine", temperature=1.0),
        lambda f, t: cosine_classifier(f, t, steps=50, scale=10.0),
    ):
        torch.testing.assert_close(fit(unit, weighted)(unit), fit(*twice)(unit))


@pytest.mark.parametrize("images", [4, 30])
def test_the_ridge_head_is_scikit_learns(images: int) -> None:
    """Both with fewer and with more images than features."""
    features, targets = labelled(images, width=9)
    theirs = Ridge(alpha=0.4, fit_intercept=False).fit(features[0].numpy(), targets[0].numpy())
    ours = ridge(features, targets, penalty=0.4, scale=3.0)(features)[0]
    np.testing.assert_allclose(ours.numpy(), 3 * theirs.predict(features[0].numpy()), atol=1e-9)


def test_the_ridge_head_of_many_images_ends_in_two_threads() -> None:
    """LU of several such systems may hang there, or fail: https://github.com/pytorch/pytorch/issues/142815."""
    code = (
        "import torch; from autometa.learning.heads import ridge; torch.set_num_threads(2);"
        "x = torch.randn(5, 300, 400, requires_grad=True); y = torch.eye(5).repeat(5, 60, 1);"
        "fit = lambda x, y: ridge(x, y, penalty=1.0)(x);"
        "[fit(x, y).sum().backward() for _ in range(10)]; print(x.grad.isfinite().all().item());"
        "print(torch.vmap(fit)(x[:, None], y[:, None])[:, 0].allclose(fit(x, y), atol=1e-5))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True", "True"], done.stderr


class _RidgeHead(nn.Module):
    def forward(self, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return ridge(features, targets, penalty=0.4)(features)


@pytest.mark.parametrize("images", [4, 30])
def test_a_graph_of_the_ridge_head_says_the_same_for_any_number_of_images(images: int) -> None:
    """Also where the system's condition number is a million."""
    more = {1: torch.export.Dim("images", min=1)}
    program = torch.export.export(_RidgeHead(), labelled(12, width=9), dynamic_shapes=(more, more))
    assert not [node for node in program.graph.nodes if "linalg" in str(node.target)]
    features, targets = labelled(images, width=9)
    scaled = 200 * features
    torch.testing.assert_close(program.module()(scaled, targets), ridge(scaled, targets, penalty=0.4)(scaled))


@pytest.mark.parametrize("images", [4, 30])
def test_an_image_without_targets_does_not_count_in_the_ridge_head(images: int) -> None:
    """Both with fewer and with more images than features."""
    features, targets = labelled(images, width=9)
    generator = torch.Generator().manual_seed(6)
    unlabelled = 3 * torch.randn(1, 3, 9, generator=generator, dtype=torch.float64)
    nothing = torch.zeros(1, 3, 3, dtype=torch.float64)
    ours = ridge(torch.cat([features, unlabelled], 1), torch.cat([targets, nothing], 1), penalty=0.4)
    torch.testing.assert_close(ours(features), ridge(features, targets, penalty=0.4)(features))


def test_soft_k_means_moves_the_prototypes_as_in_ren_et_al() -> None:
    support, targets = labelled(6, way=3)
    query = labelled(9, seed=5)[0]
    ours = transductive_scores("soft_kmeans", fit_means, support, targets, query)
    prototypes = torch.stack([support[0, targets[0, :, n] == 1].mean(0) for n in range(3)])
    for _ in range(3):
        shares = (-torch.cdist(query[0], prototypes).square() / 5**0.5).softmax(-1)  # (9, 3)
        total = targets[0].T @ support[0] + shares.T @ query[0]
        prototypes = total / (2 + shares.sum(0))[:, None]
    theirs = (-torch.cdist(query[0], prototypes).square() / 5**0.5).softmax(-1)
    torch.testing.assert_close(ours[0].softmax(-1), theirs)


def fit_means(features: torch.Tensor, targets: torch.Tensor):  # type: ignore[no-untyped-def]
    return nearest_mean(features, targets, metric="euclidean", temperature=1.0)


def test_pseudo_labels_go_to_the_confident_half() -> None:
    shares = torch.tensor([[[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.45, 0.55]]])
    expected = torch.tensor([[[1.0, 0], [0, 0], [0, 1], [0, 0]]])
    torch.testing.assert_close(confident(shares), expected)


def test_votes_are_those_of_the_nearest_support_images() -> None:
    support = torch.tensor([[[1.0, 0], [0.9, 0.1], [0, 1.0], [0.1, 0.9]]])
    targets = torch.tensor([[[1.0, 0], [0, 1], [0, 1], [1, 0]]])
    found = votes(support, targets, torch.tensor([[[1.0, 0.05], [0.0, 2.0]]]))
    torch.testing.assert_close(found, torch.tensor([[[0.5, 0.5], [0.5, 0.5]]]))


@pytest.mark.parametrize("kind", ["soft_kmeans", "pseudo_label", "knn"])
@pytest.mark.parametrize(
    ("learner", "options"), [(Prototypical, {}), (Pretrain, {"head": "finetune"}), (Pretrain, {"head": "ridge"})]
)
def test_a_transductive_start_says_so_and_uses_the_query_set(
    kind: str, learner: type[Learner], options: dict[str, str]
) -> None:
    torch.manual_seed(3)
    backbone = Conv((2, 8, 8), depth=2, width=8, norm="group")
    inductive = learner(backbone, SETTING, **options).double().eval()
    transductive = learner(backbone, SETTING, **options, transduction=kind).double().eval()
    assert not inductive.transductive
    assert transductive.transductive
    episodes = double(make_episodes())
    assert not torch.allclose(transductive.query_logits(episodes), inductive.query_logits(episodes))
    alone = torch.cat([transductive.query_logits(episodes.episode(i)) for i in range(2)])
    torch.testing.assert_close(transductive.query_logits(episodes), alone)


def test_a_transductive_start_helps_where_classes_are_clusters() -> None:
    episodes = make_episodes(batch=40, shot=1, query=15, seed=9)
    noisy = type(episodes)(
        3 * torch.randn_like(episodes.support_x) + episodes.support_x,
        episodes.support_y,
        episodes.query_x,
        episodes.query_y,
        3,
    )

    def accuracy(kind: str) -> float:
        learner = Prototypical(Identity(), SETTING, temperature=1.0, transduction=kind)
        return float((learner.query_logits(noisy).argmax(-1) == noisy.query_y).float().mean())

    assert accuracy("soft_kmeans") > accuracy("none") + 0.05


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"x\.transduction = 'kmeans': it may be none | soft_kmeans"):
        check_kind("x.transduction", "kmeans")


def test_the_cosine_classifier_is_what_another_optimiser_finds() -> None:
    """Chen et al. 2019: softmax regression on scaled cosines with the classes' weights, whatever their length."""
    features, targets = labelled(60, width=4)
    unit, labels = F.normalize(features[0], dim=-1), targets[0].argmax(-1)

    def loss(directions: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(2 * unit @ F.normalize(directions, dim=-1).T, labels)

    weight = (targets[0].T @ unit).requires_grad_()
    optimizer = torch.optim.LBFGS([weight], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        found = loss(weight)
        found.backward()
        return found

    optimizer.step(closure)
    query = labelled(7, width=4, seed=3)[0]
    theirs = 2 * F.normalize(query[0], dim=-1) @ F.normalize(weight.detach(), dim=-1).T
    ours = cosine_classifier(unit[None], targets, steps=500, scale=2.0)(query)[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
    means = nearest_mean(unit[None], targets, metric="cosine", temperature=0.5)(query)[0]
    assert (means - theirs).abs().max() > 0.1  # so class means are another classifier
    torch.testing.assert_close(cosine_classifier(unit[None], targets, steps=0, scale=2.0)(query)[0], means)


def test_every_step_of_the_cosine_classifier_goes_downhill() -> None:
    features, targets = labelled(30, width=8, seed=4)
    unit = F.normalize(features, dim=-1)

    def loss(steps: int) -> float:
        scores = cosine_classifier(unit, targets, steps=steps, scale=10.0)(unit)[0]
        return float(F.cross_entropy(scores, targets[0].argmax(-1)))

    losses = [loss(steps) for steps in range(40)]
    assert all(after < before for before, after in itertools.pairwise(losses))
