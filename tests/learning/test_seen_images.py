"""In an evaluation each image goes through the backbone once, and nothing else changes."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from autometa.data.episodes import fixed_episodes
from autometa.data.image_pool import ImagePool
from autometa.data.load import load_dataset
from autometa.learning import seen_images
from autometa.learning.evaluation import evaluate
from autometa.learning.learner import Learner, each_image_once, embed
from autometa.learning.views import seen
from autometa.records import EpisodeSpec, TrialConfig
from autometa.trial import build

SPEC = EpisodeSpec(way=3, shot=1, query=5)


def learner(name: str = "prototypical", **values: object) -> Learner:
    torch.manual_seed(0)
    config = TrialConfig(values={"learner": name, "backbone": "conv", "conv.depth": 2, "conv.width": 8} | values)
    return build.candidate(config).build(image_shape=load_dataset("digits").image_shape, way=3, train_classes=4).eval()


def batches(count: int = 40, batch: int = 8) -> list:
    pool = ImagePool(load_dataset("digits"), "val", torch.device("cpu"))
    return list(fixed_episodes(pool, SPEC, count=count, seed=1, batch=batch))


class Passes:
    """Counts the images that go through a backbone."""

    def __init__(self, model: Learner) -> None:
        self.images = 0
        model.backbone.register_forward_hook(self)

    def __call__(self, _: object, arguments: tuple[Tensor, ...], __: object) -> None:
        self.images += len(arguments[0])


@pytest.mark.parametrize("name", ["prototypical", "ridge", "pretrain", "siamese"])
def test_scores_are_the_same_with_fewer_passes(name: str) -> None:
    model = learner(name)
    episodes = batches()
    with torch.no_grad():
        expected = [model.query_logits(batch) for batch in episodes]
        passes = Passes(model)
        with each_image_once(model):
            found = [model.query_logits(batch) for batch in episodes]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    images = torch.cat([torch.cat([b.support_x, b.query_x], 1).flatten(0, 1) for b in episodes])
    assert passes.images == len(images.flatten(1).unique(dim=0)) < len(images)
    assert model.backbone.seen is None


def test_an_evaluation_uses_it() -> None:
    model = learner()
    passes = Passes(model)
    evaluate(model, batches(), seed=1)
    assert passes.images < 40 * 18


def test_a_mirrored_image_is_another_one() -> None:
    model, (batch, *_) = learner(), batches(8)
    mirrored = replace(batch, support_x=seen(batch.support_x, 4), query_x=seen(batch.query_x, 4))
    with torch.no_grad():
        expected = embed(model.backbone, mirrored)
        with each_image_once(model):
            embed(model.backbone, batch)
            torch.testing.assert_close(embed(model.backbone, mirrored), expected)


def test_adapted_weights_know_nothing_of_what_others_saw() -> None:
    model, (batch, *_) = learner(), batches(8)
    changed = {name: 2 * parameter.detach() + 0.1 for name, parameter in model.backbone.named_parameters()}

    class Embedding(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = model.backbone

        def forward(self) -> tuple[Tensor, Tensor]:
            return embed(self.backbone, batch)

    named = {f"backbone.{name}": tensor for name, tensor in changed.items()}
    with torch.no_grad():
        expected = torch.func.functional_call(Embedding(), named, ())
        with each_image_once(model):
            before = embed(model.backbone, batch)
            torch.testing.assert_close(torch.func.functional_call(Embedding(), named, ()), expected)
            assert copy.deepcopy(model).backbone.seen is None
            torch.testing.assert_close(embed(model.backbone, batch), before)


@pytest.mark.parametrize("norm", ["support", "transductive"])
def test_images_that_influence_each_other_are_seen_each_time(norm: str) -> None:
    model, episodes = learner(norm=norm), batches()
    passes = Passes(model)
    evaluate(model, episodes, seed=1)
    assert passes.images == 40 * 18


def test_gradients_go_through_the_backbone() -> None:
    model, (batch, *_) = learner(), batches(8)
    query = batch.query_x.clone().requires_grad_()
    with each_image_once(model):
        with torch.no_grad():
            embed(model.backbone, batch)
        embed(model.backbone, replace(batch, query_x=query))[1].sum().backward()
    assert query.grad is not None
    assert query.grad.abs().sum() > 0


def test_no_more_is_kept_than_the_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    model, episodes = learner(), batches()
    expected = evaluate(model, episodes, seed=1)
    monkeypatch.setattr(seen_images, "_BYTES", 30 * model.backbone.features * 4)
    passes = Passes(model)
    assert evaluate(model, episodes, seed=1) == expected
    assert passes.images < 40 * 18
