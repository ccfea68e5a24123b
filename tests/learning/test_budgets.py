"""A budget of operations is what every learner's training takes, by a count that is not the program's own."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from autometa.data.dataset import FewShotDataset
from autometa.data.episodes import EpisodeSampler
from autometa.data.image_pool import ImagePool
from autometa.learning import checkpoints
from autometa.learning.attacks import PixelRange
from autometa.learning.objective import Objective, ObjectiveOptions
from autometa.learning.operations import Phase, affordable_steps, operations_of
from autometa.learning.ops.block import every_operation_visible
from autometa.learning.training import Training, TrainingOptions
from autometa.records import Accuracy, Budget, EpisodeSpec, Scalar, TrialConfig
from autometa.trial.build import LEARNERS, candidate
from tests.learning.counted import Counted

SEEN = Accuracy(mean=0.5, half_width=0.1, episodes=3, seed=0)
SPEC = EpisodeSpec(way=3, shot=2, query=2)
VIT: dict[str, Scalar] = {"backbone": "vit", "vit.patch": 4, "vit.dim": 8, "vit.depth": 1, "vit.heads": 2}
MAML: dict[str, Scalar] = {"learner": "maml", "norm": "support", "maml.inner_steps": 2}
# Each learner, and every option that changes which operations a step has.
CASES: list[dict[str, Scalar]] = [
    {"learner": "prototypical"},
    {"learner": "prototypical", **VIT},
    {"learner": "matching"},
    {"learner": "matching", "matching.full_context": True},
    {"learner": "siamese"},
    {"learner": "relation"},
    {"learner": "ridge"},
    {"learner": "ridge", "backbone": "mlp", "mlp.width": 4},  # fewer features than images
    {"learner": "svm", "svm.solver_steps": 5},
    {"learner": "cnaps"},
    {"learner": "cnaps", "cnaps.head": "mahalanobis"},
    MAML,
    {**MAML, "maml.first_order": True},
    {**MAML, "maml.multi_step_loss": 0.15},
    {**MAML, "maml.first_order_share": 0.5, "maml.learned_rates": True},
    {**MAML, "maml.first_order_share": 0.3, "maml.multi_step_loss": 0.6},
    {**MAML, "maml.checkpoint_inner_steps": True, "maml.multi_step_loss": 0.3},
    {"learner": "anil"},
    {"learner": "boil"},
    {"learner": "meta_sgd"},
    {"learner": "reptile"},
    {"learner": "reptile", "reptile.inner_optimizer": "adam"},
    {"learner": "lstm", "lstm.inner_steps": 2},
    {"learner": "meta_networks", "meta_networks.hidden": 4},
    {"learner": "reader", "reader.dim": 8, "reader.depth": 1, "reader.heads": 2},
    {"learner": "pretrain", "pretrain.mixing": "cutmix"},
    {"learner": "pretrain", "pretrain.rotation_weight": 0.5},
    {"learner": "pretrain", "pretrain.distillation_weight": 0.5, **VIT},  # whose teacher passes without a gradient
    {"learner": "tuned", "backbone": "conv", "tuned.whiten": 0.0},  # what it sees before the first step is not counted
]


def named(case: dict[str, Scalar]) -> str:
    return " ".join(str(value) if name == "learner" else f"{name}={value}" for name, value in case.items())


def training_of(
    digits: FewShotDataset, values: dict[str, Scalar], budget: Budget, *, seed: int = 5, **options: Any
) -> Training:
    torch.manual_seed(seed)
    config = TrialConfig(values={"conv.depth": 1, "conv.width": 4, "pretrain.batch_size": 8, **values})
    learner = candidate(config).build(image_shape=digits.image_shape, way=SPEC.way, train_classes=24)
    generator = torch.Generator().manual_seed(seed + 1)
    objective = options.pop("objective", None)
    return Training(
        learner,
        EpisodeSampler(ImagePool(digits, "train"), SPEC, batch=1, generator=generator),
        options=TrainingOptions(**options),
        budget=budget,
        validate=lambda *_: SEEN,
        generator=generator,
        objective=Objective(objective, PixelRange.of(digits.mean, digits.std), generator) if objective else None,
    )


def steps_counted(training: Training) -> list[int]:
    """Operations of each outer step of a training, to its end; not what it takes to count them beforehand."""
    counted, totals, end = Counted(), [0], training.end

    def end_uncounted() -> int | None:
        found = end()
        counted.total = 0
        return found

    training.end = end_uncounted  # type: ignore[method-assign]
    with every_operation_visible(), counted:
        list(training.rungs(lambda *_: totals.append(counted.total)))
    return [after - before for before, after in itertools.pairwise(totals)]


@pytest.mark.parametrize("case", CASES, ids=named)
def test_a_training_takes_the_operations_of_its_budget(digits: FewShotDataset, case: dict[str, Scalar]) -> None:
    (one_step,) = steps_counted(training_of(digits, case, Budget(steps=1, rungs=1)))
    phases = training_of(digits, case, Budget(steps=1)).learner.phases
    budget = (16.9 if phases else 4.9) * one_step
    training = training_of(digits, case, Budget(steps=1000, teraflops=budget / 1e12, rungs=2))
    steps = steps_counted(training)
    assert len(steps) == training.steps == training.state.last_step
    assert budget - 1.5 * max(steps) <= sum(steps) <= budget
    assert len(set(steps)) == len(phases) + 1, "a phase is where the cost changes"


def test_every_learner_is_counted() -> None:
    trained = {name for name, learner in LEARNERS.items() if learner.is_trained}
    assert {case["learner"] for case in CASES} == trained


@pytest.mark.parametrize(
    "options",
    [{"contrastive_weight": 0.1}, {"gradient_penalty": 0.5}, {"attack_epsilon": 0.1, "attack_steps": 2}],
    ids=lambda options: next(iter(options)),
)
def test_what_is_added_to_a_step_is_paid_for(digits: FewShotDataset, options: dict[str, Any]) -> None:
    def of(budget: Budget) -> Training:
        return training_of(digits, {"learner": "prototypical"}, budget, objective=ObjectiveOptions(**options))

    (one_step,) = steps_counted(of(Budget(steps=1, rungs=1)))
    training = of(Budget(steps=1000, teraflops=4.9 * one_step / 1e12, rungs=2))
    assert steps_counted(training) == [one_step] * 4


def test_bfloat16_counts_the_same(digits: FewShotDataset) -> None:
    def phases(bfloat16: bool) -> list[Phase]:
        return training_of(digits, MAML, Budget(steps=1), bfloat16=bfloat16).phases()

    assert phases(True) == phases(False)


WARM: dict[str, Scalar] = {
    **MAML,
    "maml.multi_step_loss": 0.4,
    "maml.first_order_share": 0.2,
    "backbone": "mlp",
    "mlp.width": 8,
    "mlp.drop_rate": 0.3,
}


def test_counting_beforehand_changes_nothing(digits: FewShotDataset) -> None:
    """Not a weight, not a running average, and not what dropout draws."""
    values: dict[str, Scalar] = {**WARM, "norm": "per_step"}
    counted = training_of(digits, values, Budget(steps=1000, teraflops=3e-6, rungs=3))
    reports = list(counted.rungs())
    plain = training_of(digits, values, Budget(steps=counted.steps, rungs=3))
    assert [report.steps for report in plain.rungs()] == [report.steps for report in reports]
    assert 3 < counted.steps < 1000
    for name, tensor in plain.learner.state_dict().items():
        assert torch.equal(tensor, counted.learner.state_dict()[name]), name


@pytest.mark.parametrize("rung", [1, 2])
def test_a_training_that_changes_its_steps_is_resumed_to_the_last_bit(
    digits: FewShotDataset, tmp_path: Path, rung: int
) -> None:
    """Once before the last change, once after it; neither the end nor the annealing is found anew."""
    budget = Budget(steps=1000, teraflops=3e-6, rungs=4)
    straight = training_of(digits, WARM, budget)
    list(straight.rungs())
    assert 8 < straight.steps < 40
    first = training_of(digits, WARM, budget)
    for _ in itertools.islice(first.rungs(), rung):
        pass
    checkpoints.save(tmp_path, first, extra={})
    second = training_of(digits, WARM, budget)
    checkpoints.load(tmp_path, second)
    list(second.rungs())
    assert second.curve[-1].steps == straight.steps
    for name, tensor in straight.learner.state_dict().items():
        assert torch.equal(tensor, second.learner.state_dict()[name]), name


@pytest.mark.parametrize(
    ("phases", "operations"),
    [
        ([Phase(0.0, 7)], 100),
        ([Phase(0.0, 102), Phase(0.15, 31)], 4321),
        ([Phase(0.0, 22), Phase(0.5, 31)], 1000),
        ([Phase(0.0, 90), Phase(0.3, 100), Phase(0.6, 7)], 2000),
        ([Phase(0.0, 5), Phase(0.9, 50)], 49),
    ],
)
def test_the_end_is_the_last_step_that_is_paid_for(phases: list[Phase], operations: int) -> None:
    def spent(steps: int) -> int:
        starts = [phase.start for phase in phases]
        return sum(phases[sum(step / steps >= start for start in starts) - 1].operations for step in range(steps))

    steps = affordable_steps(phases, operations)
    assert operations_of(phases, steps) == spent(steps) <= operations < spent(steps + 1)
