"""BOIL: as MAML, but only the backbone adapts in the inner loop; the head is learned and then stays as it is."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.inner_loop import HEAD, TaskLearner, Weights, gradients
from autometa.learning.learner import Setting, query_loss


class Boil(TaskLearner):
    """Oh et al. 2021, BOIL: towards representation change for few-shot learning.

    A head of zeros would send no gradient to the backbone, so this one is random at first and meta-learned. It is
    therefore tied to `setting.way` classes, and as its rows differ, scores depend on the order of class labels.

    Args:
        inner_lr: step size of the inner loop.
        inner_steps: inner gradient steps, in training and in evaluation, 1 to 64.
        first_order: leave out second derivatives.
    """

    class_order_invariant_with = None  # each label has a row of the head
    adapts_together = True

    def __init__(
        self,
        backbone: Backbone,
        setting: Setting,
        *,
        inner_lr: float = 0.5,
        inner_steps: int = 1,
        first_order: bool = False,
    ) -> None:
        super().__init__(backbone, setting)
        if inner_lr <= 0:
            raise ConfigError(f"boil.inner_lr = {inner_lr}: it must be positive")
        if not 1 <= inner_steps <= 64:
            raise ConfigError(f"boil.inner_steps = {inner_steps}: it may be 1 … 64")
        self.inner_lr = inner_lr
        self.inner_steps = inner_steps
        self.first_order = first_order
        self.head = nn.Linear(backbone.features, setting.way)

    @property
    def steps(self) -> int:
        return self.inner_steps

    def task_loss(self, tasks: EpisodeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        weights = self.adapt(tasks, create_graph=not self.first_order)
        return query_loss(self.query_scores(weights, tasks), tasks, self.setting.label_smoothing)

    def trajectory(self, tasks: EpisodeBatch, *, create_graph: bool) -> Iterator[Weights]:
        weights = self.initial_weights(tasks.way)
        body = [name for name in weights if name not in HEAD]
        for step in range(self.inner_steps):
            weights = weights | self.renewed({name: weights[name] for name in body}, body, tasks.batch)
            loss = self.support_loss(weights, tasks, step)
            found = gradients(loss, weights, body, create_graph=create_graph)
            weights = weights | {name: weights[name] - self.inner_lr * found[name] for name in body}
            yield weights

    def initial_weights(self, way: int) -> Weights:
        """The backbone's weights and the meta-learned head.

        Raises:
            ConfigError: the episode has another way than the head.
        """
        if way != self.setting.way:
            raise ConfigError(
                f"boil: an episode of {way} classes, but its learned head has {self.setting.way}; train and evaluate "
                f"with the same way (train_way = 0 takes that of the evaluation), or choose maml or anil"
            )
        return super().initial_weights(way) | {HEAD[0]: self.head.weight, HEAD[1]: self.head.bias}
