"""The conformance kit finds what it is for: a learner or backbone with one fault fails the check of that name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autometa.data.episodes import EpisodeBatch
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.backbones.conv import Conv
from autometa.learning.backbones.mlp import Mlp
from autometa.learning.learner import LossLearner
from autometa.learning.learners.boil import Boil
from autometa.learning.learners.prototypical import Prototypical
from autometa.learning.normalization import Layout
from autometa.testing import check_backbone, check_learner


class SeesQueries(Prototypical):
    """Centres its scores over the query images."""

    def query_logits(self, episodes: EpisodeBatch) -> Tensor:
        found = super().query_logits(episodes)
        return found - found.mean(1, keepdim=True)


class SeesEpisodes(Prototypical):
    """Centres its scores over the batch."""

    def query_logits(self, episodes: EpisodeBatch) -> Tensor:
        found = super().query_logits(episodes)
        return found - found[:, :1].mean(0, keepdim=True)


class PrefersTheFirst(Prototypical):
    """Adds to the score of the first class."""

    def query_logits(self, episodes: EpisodeBatch) -> Tensor:
        return super().query_logits(episodes) + torch.arange(episodes.way)


class SaysLessThanItIs(Prototypical):
    """Says that the order of class labels matters."""

    class_order_invariant_with = None


class Forgets(Prototypical):
    """Keeps a number that training depends on outside its buffers."""

    steps = 0

    def loss(self, *drawn: Any, **named: Any) -> tuple[Tensor, dict[str, Tensor]]:
        self.steps += 1
        loss, metrics = super().loss(*drawn, **named)
        return loss / self.steps, metrics


class Overflows(Prototypical):
    """Has scores that are finite only where its features are exact."""

    def scores(self, episodes: EpisodeBatch) -> Tensor:
        found = super().scores(episodes)
        return found / (0 if self.backbone.trains_in_bfloat16 and self.training else 1)


class DoesNotStack(Boil):
    """Says that candidates train as one model, and is not trained by one loss."""

    stackable_with = {}
    class_order_invariant_with = {}

    def query_logits(self, episodes: EpisodeBatch) -> Tensor:
        return Prototypical(self.backbone, self.setting).query_logits(episodes)


class TakesImages(Prototypical):
    """Says that it is trained on plain images."""

    trains_on_episodes = False


class Sums(Prototypical):
    """Has the gradient of a sum over episodes, and says that it is a mean."""

    def loss(self, *drawn: Any, **named: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = super().loss(*drawn, **named)
        return loss * drawn[0].batch, metrics


class IsTransductive(Prototypical):
    """Has an option that does what its declaration leaves out."""

    inductive_with = {"transduction": "soft_kmeans"}


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        (SeesQueries, "inductive"),
        (SeesEpisodes, "batch_size"),
        (PrefersTheFirst, "class_order"),
        (SaysLessThanItIs, "class_order"),
        (Forgets, "resumes"),
        (Overflows, "bfloat16"),
        (DoesNotStack, "stackable"),
        (TakesImages, "trains_on_episodes"),
        (Sums, "averages_over_episodes"),
        (IsTransductive, "inductive"),
    ],
)
def test_a_faulty_learner_fails_the_check_of_its_fault(kind: type[LossLearner], check: str) -> None:
    assert_fails(check, lambda: check_learner(kind), kind)


class Mixes(Conv):
    """Subtracts the mean of the whole batch."""

    def forward(self, images: Tensor, layout: Layout | None = None) -> Tensor:
        found = super().forward(images, layout)
        return found - found.mean(0)


class IsLarger(Conv):
    """Says that it gives one feature more."""

    def __init__(self, image_shape: tuple[int, int, int], **options: Any) -> None:
        super().__init__(image_shape, **options)
        self.features += 1


class Draws(Conv):
    """Draws noise in evaluation, too."""

    def forward(self, images: Tensor, layout: Layout | None = None) -> Tensor:
        found = super().forward(images, layout)
        return found + torch.rand_like(found)


class HasAnIdleWeight(Mlp):
    """Has a weight that features do not depend on."""

    def __init__(self, image_shape: tuple[int, int, int], **options: Any) -> None:
        super().__init__(image_shape, **options)
        self.idle = nn.Parameter(torch.ones(3))


class IsExternal(Mlp):
    """Says of its class that its weights are its own, and of itself that they are not."""

    def __init__(self, image_shape: tuple[int, int, int], **options: Any) -> None:
        super().__init__(image_shape, **options)
        self.external = True


class DrawsInTraining(Mlp):
    """Says that candidates train as one model whatever its dropout is."""

    stackable_with = {}


@pytest.mark.parametrize(
    ("kind", "options", "check"),
    [
        (Mixes, {"depth": 2, "width": 8}, "batch_size"),
        (IsLarger, {"depth": 2, "width": 8}, "shape"),
        (Draws, {"depth": 2, "width": 8}, "evaluation"),
        (HasAnIdleWeight, {"width": 8}, "second_derivatives"),
        (IsExternal, {"width": 8}, "external"),
        (DrawsInTraining, {"width": 8, "drop_rate": 0.5}, "stackable"),
    ],
)
def test_a_faulty_backbone_fails_the_check_of_its_fault(
    kind: type[Backbone], options: dict[str, Any], check: str
) -> None:
    assert_fails(check, lambda: check_backbone(kind, **options), kind)


def assert_fails(check: str, run: Any, kind: type) -> None:
    before = torch.get_rng_state()
    with pytest.raises(AssertionError) as caught:
        run()
    said = str(caught.value)
    assert said.startswith(f"{check}: ")
    assert kind.__name__ in said
    assert "\n" not in said
    assert torch.equal(torch.get_rng_state(), before)
