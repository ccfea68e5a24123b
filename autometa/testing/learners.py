"""`check_learner`: what autometa takes for granted of every learner, checked on small random data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from autometa.data.episodes import EpisodeBatch
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.backbones.conv import Conv
from autometa.learning.learner import Learner, Setting
from autometa.learning.normalization import MODES
from autometa.records import Scalar
from autometa.testing.example_data import TRAIN_CLASSES, InDouble, Watched, training_source, validation_episodes
from autometa.testing.trainings import (
    SETTING,
    MakeLearner,
    alike,
    check_bfloat16,
    check_resumes,
    check_stackable,
    largest_change,
    require,
    trained,
)
from autometa.trial.abilities import declared

MakeBackbone = Callable[[str], Backbone]


def small_conv(norm: str) -> Backbone:
    """Two blocks of eight channels for images of (2, 8, 8)."""
    return Conv((2, 8, 8), depth=2, width=8, norm=norm)


def check_learner(kind: type[Learner], /, *, backbone: MakeBackbone = small_conv, **options: Scalar) -> None:
    """Check a learner's class with these options. torch's global generator is left as it was.

    - `inductive`: scores of a query image do not change with the other query images, under every mode of
      normalisation but "transductive". Left out where `inductive_with` is not met; then `transductive` must be true.
    - `batch_size`: an episode has the same scores alone as in a batch.
    - `uneven_shots`: classes may have different numbers of support images, and are told apart by `shots`.
    - `class_order`: permuted class labels give permuted scores exactly where `class_order_invariant_with` is met.
    - `resumes`: 2 steps, a checkpoint and 2 more steps give the weights of 4 steps to the bit.
    - `bfloat16`: training with the backbone in bfloat16 stays finite.
    - `stackable`: candidates train as one model as they do alone, where `stackable_with` is met.
    - `trains_on_episodes`, `averages_over_episodes`, `phases`: as declared.

    Args:
        kind: called with a backbone, a `Setting` and the options.
        backbone: makes a small one, with the mode of normalisation it is given.
        options: of the learner; those left out keep their default.

    Raises:
        AssertionError: one sentence that begins with the name of the check that failed.
    """
    says = declared(kind)
    is_inductive = says.meets(says.inductive_with, options)
    who = f"{kind.__name__}({', '.join(f'{name}={value!r}' for name, value in options.items())})"

    def make(norm: str) -> MakeLearner:
        return lambda setting: kind(backbone(norm), setting, **options)

    with torch.random.fork_rng(devices=[]):
        for norm in MODES:
            _check_scores(trained(make(norm)), f"{who}, norm = {norm!r},", is_inductive and norm != "transductive")
        invariant = says.meets(says.class_order_invariant_with, options)
        _check_class_order(trained(make("group")), who, declared=invariant)
        _check_uneven_shots(trained(make("group")), who, invariant)
        _check_outer_step(make("support"), who)
        check_resumes(make("running"), who)
        check_bfloat16(make("support"), who)
        check_stackable(make("running"), who, declared=says.meets(says.stackable_with, options))


@torch.no_grad()
def _check_scores(learner: Learner, who: str, is_inductive: bool) -> None:
    says = "transductive" if learner.transductive else "inductive"
    require(learner.transductive is not is_inductive, "inductive", f"{who} says of itself that it is {says}")
    episodes = validation_episodes(learner.backbone.image_shape).to("cpu", torch.float64)
    scores = learner.query_logits(episodes)
    wanted = (episodes.batch, episodes.query_x.shape[1], episodes.way)
    require(scores.shape == wanted, "shape", f"scores of {who} are {tuple(scores.shape)} and should be {wanted}")
    alone = torch.cat([learner.query_logits(episodes.episode(i)) for i in range(episodes.batch)])
    require(
        alike(alone, scores),
        "batch_size",
        f"scores of {who} change by {largest_change(alone, scores)} when an episode is scored alone",
    )
    if is_inductive:
        among_others = learner.query_logits(_with_other_queries(episodes))[:, 0]
        require(
            alike(among_others, scores[:, 0]),
            "inductive",
            f"scores that {who} gives a query image change by {largest_change(among_others, scores[:, 0])} "
            "with the other query images",
        )


def _with_other_queries(episodes: EpisodeBatch) -> EpisodeBatch:
    """The same first query image of each episode, among others of larger values."""
    queries = episodes.query_x.clone()
    queries[:, 1:] = 5 * torch.randn_like(queries[:, 1:])
    return replace(episodes, query_x=queries)


@torch.no_grad()
def _check_class_order(learner: Learner, who: str, *, declared: bool) -> None:
    episodes = validation_episodes(learner.backbone.image_shape).to("cpu", torch.float64)
    order = torch.tensor([2, 0, 1])  # class c of the other episodes is class order[c] of these
    support = episodes.support_x.unflatten(1, (episodes.way, -1))[:, order].flatten(1, 2)
    expected = learner.query_logits(episodes)[..., order]
    found = learner.query_logits(replace(episodes, support_x=support))
    if declared:
        change = largest_change(found, expected)
        require(alike(found, expected), "class_order", f"scores of {who} change by {change} with permuted class labels")
    else:
        sentence = f"{who} declares that scores depend on the order of class labels, but they do not"
        require(not alike(found, expected), "class_order", sentence)


@torch.no_grad()
def _check_uneven_shots(learner: Learner, who: str, invariant: bool) -> None:
    """Equal shots that are written out change nothing; others are taken in any order of classes."""
    episodes = validation_episodes(learner.backbone.image_shape).to("cpu", torch.float64)
    way, shot = episodes.way, episodes.shot
    written_out = learner.query_logits(replace(episodes, shots=(shot,) * way))
    sentence = f"scores of {who} change where equal shots are written out"
    require(alike(written_out, learner.query_logits(episodes)), "uneven_shots", sentence)
    shots, order = tuple(range(1, way + 1)), list(range(way))[::-1]
    found = learner.query_logits(_uneven(episodes, shots, list(range(way))))
    require(bool(found.isfinite().all()), "uneven_shots", f"scores of {who} are not finite with shots {shots}")
    if invariant:
        turned = learner.query_logits(_uneven(episodes, shots[::-1], order))
        change = largest_change(turned, found[..., order])
        sentence = f"scores of {who} with shots {shots} change by {change} with permuted classes"
        require(alike(turned, found[..., order]), "uneven_shots", sentence)


def _uneven(episodes: EpisodeBatch, shots: tuple[int, ...], order: list[int]) -> EpisodeBatch:
    """The first so many query images of these classes as their support, and the old support as queries."""
    classes = episodes.query_x.unflatten(1, (episodes.way, -1))
    chosen = [classes[:, number, :shot] for number, shot in zip(order, shots, strict=True)]
    labels = torch.arange(len(shots)).repeat_interleave(torch.tensor(shots))
    return EpisodeBatch(
        support_x=torch.cat(chosen, 1),
        support_y=labels.expand(episodes.batch, -1),
        query_x=episodes.support_x,
        query_y=episodes.support_y,
        way=episodes.way,
        shots=shots,
    )


def _check_outer_step(make: MakeLearner, who: str) -> None:
    learner = _fresh(make)
    phases = list(learner.phases)
    is_ascending = phases == sorted(set(phases)) and all(0 < phase < 1 for phase in phases)
    require(is_ascending, "phases", f"those of {who} should ascend between 0 and 1, but are {phases}")
    source = Watched(_source(learner))
    metrics = learner.outer_step(source)
    require("loss" in metrics, "outer_step", f"that of {who} returns no `loss`")
    require(not metrics["loss"].requires_grad, "outer_step", f"that of {who} returns a loss that is not detached")
    asked, other = (source.batches, source.plain) if learner.trains_on_episodes else (source.plain, source.batches)
    sentence = f"{who} says {learner.trains_on_episodes}, but its outer step asked for something else"
    require(asked > 0 and other == 0, "trains_on_episodes", sentence)
    if learner.averages_over_episodes:
        _check_average(make, who)


def _check_average(make: MakeLearner, who: str) -> None:
    """In evaluation mode, where nothing is drawn."""
    batch = _source(_fresh(make)).episodes()
    whole, *parts = (_gradient(make, part) for part in (batch, *batch.split(1)))
    average = torch.stack(parts).mean(0)
    sentence = f"the gradient of {who} differs by {largest_change(whole, average)} from the mean over its episodes"
    require(alike(whole, average), "averages_over_episodes", sentence)


def _gradient(make: MakeLearner, episodes: EpisodeBatch) -> Tensor:
    learner = _fresh(make).eval()
    learner.outer_step(_Given(episodes))
    return torch.cat(list(_gradients(learner)))


def _gradients(learner: Learner) -> Iterator[Tensor]:
    for parameter in learner.parameters():
        yield (torch.zeros_like(parameter) if parameter.grad is None else parameter.grad).flatten()


def _fresh(make: Callable[[Setting], Learner]) -> Learner:
    torch.manual_seed(3)
    return make(SETTING).double()


def _source(learner: Learner) -> InDouble:
    return InDouble(training_source(learner.backbone.image_shape, torch.Generator().manual_seed(4)))


class _Given:
    """A training source that gives these episodes."""

    def __init__(self, episodes: EpisodeBatch) -> None:
        self._episodes = episodes

    def episodes(self) -> EpisodeBatch:
        return self._episodes

    def images(self, count: int) -> tuple[Tensor, Tensor]:
        images = self._episodes.support_x.flatten(0, 1)[:count]
        return images, torch.arange(len(images)) % TRAIN_CLASSES
