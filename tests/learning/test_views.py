"""Views of an episode: symmetries of the square, seen by support and query alike."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from autometa.learning.backbones.conv import Conv
from autometa.learning.learners.prototypical import Prototypical
from autometa.learning.symmetries import VIEWS
from autometa.learning.views import mean_logits, seen, view_logits
from tests.conftest import make_episodes
from tests.learning.small import SETTING


def learner() -> Prototypical:
    torch.manual_seed(0)
    return Prototypical(Conv((2, 8, 8), depth=2, width=4, norm="running"), SETTING).eval()


def test_there_are_eight_views_and_the_first_is_the_image() -> None:
    image = torch.arange(9.0).view(1, 1, 3, 3)
    views = [seen(image, view) for view in VIEWS["turned"]]
    assert torch.equal(views[0], image)
    assert torch.equal(seen(image, 4), image.flip(-1))
    assert len({tuple(view.flatten().tolist()) for view in views}) == 8


@pytest.mark.parametrize("name", VIEWS)
def test_an_answer_is_the_mean_over_views_whichever_way_the_episode_comes(name: str) -> None:
    model, episodes = learner(), make_episodes()
    found = mean_logits(model, episodes, name)
    each = [view_logits(model, episodes, view) for view in VIEWS[name]]
    torch.testing.assert_close(found, sum(each) / len(each))
    if name == "plain":
        torch.testing.assert_close(found, F.log_softmax(model.query_logits(episodes), -1))
    else:
        mirrored = view_logits(model, episodes, 4)
        assert not torch.allclose(mirrored, each[0])
