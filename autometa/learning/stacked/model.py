"""G learners of one architecture as one: their weights stacked, their losses computed in one pass.

Learners may differ in numbers that are settings of theirs (a temperature, the smoothing of labels), not in
anything that decides which operations are done.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from autometa.data.episodes import EpisodeBatch
from autometa.errors import StackError
from autometa.learning.learner import Learner, LossLearner
from autometa.learning.stacked.settings import applied, differing

Tensors = dict[str, Tensor]


class Stack:
    """The weights of G learners, each a row, and their losses.

    Args:
        learners: of one architecture, on one device.

    Attributes:
        weights: what is learned, [G, P].
        sizes: numbers in each of the tensors that make up a row.
        idle: which of those tensors play no part in the loss, known after the first pass.
        constants: buffers, and parameters that are not learned, each [G, ...]. A pass in training moves running
            averages in place.

    Raises:
        StackError: they do not have one architecture, or are not trained by one loss.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        first = learners[0]
        if not isinstance(first, LossLearner):
            raise StackError(f"{type(first).__name__} is not trained by the gradient of one loss")
        self.settings = differing(learners)
        self._shapes = {name: p.shape for name, p in first.named_parameters() if p.requires_grad}
        self.sizes = [shape.numel() for shape in self._shapes.values()]
        self.idle: frozenset[int] = frozenset()
        rows = [torch.cat([p.detach().flatten() for p in learned(learner)]) for learner in learners]
        self.weights = torch.stack(rows)
        self.constants = _stacked_constants(learners)
        self._call = _Call(copy.deepcopy(first))

    def tell(self, progress: float) -> None:
        """How much of their training is spent, before its next step."""
        self._call.learner.progress = progress

    def losses(self, batch: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensors]:
        """Losses [G], the gradient [G, P] of each in its learner's own weights, and metrics, [G] each.

        Args:
            batch: what the learners drew from a `StackedSource`.

        Raises:
            StackError: the pass draws random numbers, or does what cannot be done for many at once.
        """
        parts = [part.requires_grad_() for part in self.weights.detach().split(self.sizes, dim=1)]
        drawn, rebuilt = _taken_apart(batch)

        def loss(weights: Tensors, constants: Tensors, settings: Tensors, *batch: Tensor) -> tuple[Tensor, Tensors]:
            with applied(self._call.learner, settings):
                found: tuple[Tensor, Tensors] = self._named(weights, constants, "loss", *rebuilt(*batch))
            return found

        weights = self._as_tensors(parts)
        try:
            losses, metrics = torch.vmap(loss)(weights, self.constants, self.settings, *drawn)
            gradients = torch.autograd.grad(losses.sum(), parts, allow_unused=True)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise StackError(f"its pass cannot be done for many at once: {str(error).splitlines()[0]}") from None
        self.idle = frozenset(place for place, gradient in enumerate(gradients) if gradient is None)
        filled = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parts, strict=True)]
        return losses.detach(), torch.cat(filled, 1), metrics

    def query_logits(self, episodes: EpisodeBatch) -> Tensor:
        """Scores [G, B, N·Q, N] of every learner for the same episodes, in evaluation and without gradient."""

        def logits(weights: Tensors, constants: Tensors, settings: Tensors) -> Tensor:
            with applied(self._call.learner, settings):
                found: Tensor = self._named(weights, constants, "query_logits", episodes)
            return found

        self._call.learner.eval()
        try:
            with torch.no_grad():
                weights = self._as_tensors(self.weights.split(self.sizes, dim=1))
                return torch.vmap(logits)(weights, self.constants, self.settings)
        finally:
            self._call.learner.train()

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        rows = list(rows)
        self.weights = self.weights[rows]
        self.constants = {name: tensor[rows] for name, tensor in self.constants.items()}
        self.settings = {name: tensor[rows] for name, tensor in self.settings.items()}

    def write(self, row: int, learner: Learner) -> None:
        """Copy a row into the learner it belongs to."""
        parts = self.weights[row].split(self.sizes)
        with torch.no_grad():
            for parameter, part in zip(learned(learner), parts, strict=True):
                parameter.copy_(part.view_as(parameter))
            for name, tensor in _constants(learner):
                tensor.copy_(self.constants[name][row])

    def _named(self, weights: Tensors, constants: Tensors, method: str, *arguments: Any) -> Any:
        tensors = {f"learner.{name}": tensor for name, tensor in (weights | constants).items()}
        return functional_call(self._call, tensors, (method, *arguments))

    def _as_tensors(self, parts: Sequence[Tensor]) -> Tensors:
        named = zip(self._shapes.items(), parts, strict=True)
        return {name: part.unflatten(1, shape) if shape else part[:, 0] for (name, shape), part in named}


class _Call(nn.Module):
    """Any method of a learner as `forward`, which is what `functional_call` calls."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner.train()

    def forward(self, method: str, *arguments: Any) -> Any:
        return getattr(self.learner, method)(*arguments)


def learned(learner: Learner) -> list[nn.Parameter]:
    """The parameters that are trained, in the order of a row."""
    return [p for p in learner.parameters() if p.requires_grad]


def _constants(learner: Learner) -> Iterator[tuple[str, Tensor]]:
    yield from ((name, p.detach()) for name, p in learner.named_parameters() if not p.requires_grad)
    yield from learner.named_buffers()


def _stacked_constants(learners: Sequence[Learner]) -> Tensors:
    each = [dict(_constants(learner)) for learner in learners]
    return {name: torch.stack([tensors[name] for tensors in each]) for name in each[0]}


def _taken_apart(batch: tuple[Any, ...]) -> tuple[Sequence[Tensor], Callable[..., tuple[Any, ...]]]:
    """Tensors [G, ...] of what G learners drew, and how to make of one learner's share what it drew.

    Labels of episodes are the same for all: images are ordered by class.
    """
    first = batch[0]
    if not isinstance(first, EpisodeBatch):
        return batch, lambda *parts: parts
    of_one = dataclasses.replace(first, support_y=first.support_y[0], query_y=first.query_y[0])
    images = (first.support_x, first.query_x)
    return images, lambda support, query: (dataclasses.replace(of_one, support_x=support, query_x=query),)
