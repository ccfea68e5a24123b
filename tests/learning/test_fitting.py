"""The largest part of a batch that fits is found once, and parts give what the whole would."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from autometa.data.episodes import EpisodeBatch
from autometa.learning.backbones.conv import Conv
from autometa.learning.device import is_out_of_memory
from autometa.learning.evaluation import score
from autometa.learning.fitting import Fitting
from autometa.learning.learner import Learner, Setting
from autometa.learning.learners.prototypical import Prototypical
from tests.conftest import make_episodes
from tests.learning.small import Fixed


class Limited(Prototypical):
    """Prototypical networks that have memory for three episodes at once."""

    most = 3

    def __init__(self) -> None:
        torch.manual_seed(2)
        super().__init__(Conv((2, 8, 8), depth=2, width=8, norm="support"), Setting(3, 6))
        self.tried: list[int] = []

    def scores(self, episodes: EpisodeBatch) -> Tensor:
        self.tried.append(episodes.batch)
        if episodes.batch > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().scores(episodes)

    def query_logits(self, episodes: EpisodeBatch) -> Tensor:
        return self.scores(episodes)


class Roomy(Limited):
    most = 1000


EPISODES = make_episodes(batch=10)


def gradient(learner: Learner, fitting: Fitting) -> tuple[list[Tensor], dict[str, Tensor]]:
    metrics = fitting.outer_step(learner.outer_step, learner, Fixed(EPISODES))
    return [p.grad for p in learner.parameters() if p.grad is not None], metrics


def test_a_step_in_parts_leaves_the_gradient_of_the_whole() -> None:
    whole, parts = gradient(Roomy(), Fitting()), gradient(Limited(), Fitting())
    for a, b in zip(whole[0], parts[0], strict=True):
        torch.testing.assert_close(a, b)
    assert float(whole[1]["loss"]) == pytest.approx(float(parts[1]["loss"]))
    assert float(whole[1]["accuracy"]) == pytest.approx(float(parts[1]["accuracy"]))


def test_what_fits_is_found_once() -> None:
    learner, fitting = Limited(), Fitting()
    gradient(learner, fitting)
    assert learner.tried == [10, 5, 3, 3, 3, 1]
    learner.tried.clear()
    gradient(learner, fitting)
    assert learner.tried == [3, 3, 3, 1]


def test_episodes_are_scored_in_parts_with_the_same_result() -> None:
    learner, fitting = Limited(), Fitting()
    found = score(learner, [EPISODES, EPISODES], fitting=fitting)
    assert learner.tried == [10, 5, 3, 3, 3, 1, 3, 3, 3, 1]
    assert torch.equal(found, score(Roomy(), [EPISODES, EPISODES]))


def test_one_episode_that_does_not_fit_is_an_error() -> None:
    learner = Limited()
    learner.most = 0
    with pytest.raises(torch.OutOfMemoryError):
        score(learner, [EPISODES])
    assert learner.tried == [10, 5, 3, 2, 1]


def test_any_other_error_is_not_tried_again() -> None:
    class Broken(Limited):
        def scores(self, episodes: EpisodeBatch) -> Tensor:
            self.tried.append(episodes.batch)
            raise RuntimeError("shapes do not match")

    learner = Broken()
    with pytest.raises(RuntimeError, match="shapes"):
        gradient(learner, Fitting())
    assert learner.tried == [10]


def test_a_cpu_without_memory_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)  # more than any machine has
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.OutOfMemoryError("any words"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_errors_say_that_memory_does_not_suffice(error: Exception, is_it: bool) -> None:
    assert is_out_of_memory(error) is is_it
