"""Memory of a step, found without any, against what a real step takes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from autometa.records import EpisodeSpec, Scalar, TrialConfig
from autometa.space.parameters import Choice, Range
from autometa.space.space import SearchSpace
from autometa.trial.build import LEARNERS, Candidate, candidate
from autometa.trial.footprint import largest_bytes, step_bytes, trials_at_once

SPEC = EpisodeSpec(way=5, shot=1, query=15)
SHAPE = (3, 32, 32)
# Peak of the process over what it had before the step, in bytes.
REAL_STEP = """
import resource, sys, torch
from autometa.records import TrialConfig
from autometa.trial.build import candidate
from tests.conftest import make_episodes
from tests.learning.small import Fixed
torch.set_num_threads(1)
values = {values!r}
learner = candidate(TrialConfig(values=values)).build(image_shape={shape}, way=5, train_classes=64)
optimizer = torch.optim.Adam(learner.parameters())
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def step(batch):
    learner.outer_step(Fixed(make_episodes(batch, 5, 1, 15, {shape})))
step(1)  # loads what torch loads late; a quarter of the step that counts
before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
step(values["episodes_per_step"])
optimizer.step()
print(peak() - before)
"""


def described(**values: Scalar) -> Candidate:
    return candidate(TrialConfig(values={name.replace("__", "."): value for name, value in values.items()}))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "values",
    [
        # By groups: a CPU fuses the others with what follows and keeps half as much, which a GPU does not.
        {"backbone": "conv", "conv.depth": 4, "conv.width": 64, "norm": "group"},
        {"backbone": "resnet12", "resnet12.width": 32},
    ],
)
def test_what_a_step_takes_is_known_within_a_factor_of_two(values: dict[str, Scalar]) -> None:
    values = {"learner": "prototypical", "episodes_per_step": 8, **values}
    program = REAL_STEP.format(values=values, shape=SHAPE)
    real = int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)
    found = step_bytes(candidate(TrialConfig(values=values)), spec=SPEC, image_shape=SHAPE, train_classes=64)
    assert real / 2 < found < 2 * real


@pytest.mark.parametrize("learner", [name for name, one in LEARNERS.items() if one.is_trained])
def test_every_learner_can_be_estimated(learner: str) -> None:
    def needed(width: int) -> int:
        small = described(learner=learner, backbone="conv", conv__depth=2, conv__width=width, norm="support")
        return step_bytes(small, spec=EpisodeSpec(way=2, shot=1, query=2), image_shape=(1, 16, 16), train_classes=8)

    assert needed(8) < needed(32)


def test_tasks_that_a_gpu_adapts_to_together_are_counted_together() -> None:
    def needed(learner: str, episodes: int) -> int:
        many = described(learner=learner, maml__norm="support", episodes_per_step=episodes)
        return step_bytes(many, spec=SPEC, image_shape=SHAPE, train_classes=64)

    assert needed("maml", 8) > 3 * needed("maml", 2)
    assert needed("reptile", 8) < 1.5 * needed("reptile", 2)  # takes one after the other everywhere


def test_the_largest_candidate_takes_the_largest_of_every_part() -> None:
    learners = Choice("learner", ("maml", "prototypical"))
    space = SearchSpace(
        "s",
        (
            learners,
            Choice("train_way", (5, 20), when={"learner": ("prototypical",)}),
            Range("conv.width", 8, 32),
            Choice("outer_lr", (0.1, 0.2)),
        ),
    )
    largest = described(learner="prototypical", train_way=20, conv__width=32, outer_lr=0.1)
    task = {"spec": SPEC, "image_shape": (1, 8, 8), "train_classes": 24}
    assert largest_bytes(space, **task) == step_bytes(largest, **task)


def test_more_shots_in_training_take_more_memory() -> None:
    task = {"spec": SPEC, "image_shape": (1, 8, 8), "train_classes": 24}
    plain, more = (
        step_bytes(described(learner="prototypical", conv__width=8, train_shot=shot), **task)
        for shot in (0, SPEC.shot + 10)
    )
    assert more > 1.2 * plain


@pytest.mark.parametrize(("gigabytes", "trials"), [(2, 1), (24, 3), (80, 8), (139, 8)])
def test_a_gpu_is_shared_by_as_many_as_fit(gigabytes: int, trials: int) -> None:
    assert trials_at_once(4 * 2**30, resident=2**28, gpu_bytes=gigabytes * 2**30) == trials
