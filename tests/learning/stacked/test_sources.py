"""Drawing together is drawing alone: the same images, to the last bit, from the same generators."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeSampler
from autometa.data.image_pool import ImagePool
from autometa.learning.augment import crop_flip
from autometa.learning.stacked.sources import StackedSource
from autometa.records import EpisodeSpec


def samplers(data: FewShotDataset, shots: tuple[int, ...], **options: Any) -> list[EpisodeSampler]:
    return [
        EpisodeSampler(
            ImagePool(data, "train"),
            EpisodeSpec(way=3, shot=shot, query=2),
            batch=2,
            generator=torch.Generator().manual_seed(7 + number),
            **options,
        )
        for number, shot in enumerate(shots)
    ]


@pytest.mark.parametrize("options", [{}, {"augment": crop_flip}, {"rotations": True}])
def test_episodes_and_images_are_those_of_each_alone(digits: FewShotDataset, options: dict[str, Any]) -> None:
    alone, together = (samplers(digits, (1, 1, 1), **options) for _ in range(2))
    source = StackedSource(together)
    for _ in range(2):
        episodes = source.episodes()
        for number, sampler in enumerate(alone):
            expected = sampler.episodes()
            for name in ("support_x", "support_y", "query_x", "query_y"):
                assert torch.equal(getattr(episodes, name)[number], getattr(expected, name)), name
        images, classes = source.images(11)
        for number, sampler in enumerate(alone):
            of_one, of_classes = sampler.images(11)
            assert torch.equal(images[number], of_one)
            assert torch.equal(classes[number], of_classes)


def test_only_what_draws_alike_is_gathered_at_once(digits: FewShotDataset) -> None:
    first, second, other = samplers(digits, (1, 1, 2))
    assert first.draws_like(second)
    assert not first.draws_like(other)
