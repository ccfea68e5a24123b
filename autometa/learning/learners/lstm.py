"""The LSTM meta-learner: a small network, the same for every weight, decides how far each one moves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.backbone import Backbone
from autometa.learning.inner_loop import TaskLearner, Weights, gradients
from autometa.learning.learner import Setting

_SHARPNESS = 10.0  # p of Andrychowicz et al. 2016, appendix A
_FORGET_BIAS = 5.0  # the middle of the authors' 4 to 6: a weight keeps 99.3 % of itself
_MOST_WEIGHTS = 200_000  # about 70 MB an inner step; a step of a large ResNet-12 would take minutes on a CPU
_SMALL = 0.01  # the authors' bound for the other weights at the start


class GateState(NamedTuple):
    """What the gates remember between inner steps; P weights, H hidden units."""

    hidden: Tensor  # (P, H)
    cell: Tensor  # (P, H)
    forget: Tensor  # (P), f
    input: Tensor  # (P), i


class LstmMetaLearner(TaskLearner):
    """Ravi & Larochelle 2017, Optimization as a model for few-shot learning: θ_t = f_t θ_{t-1} - i_t ∇L_t.

    θ is the cell state of an LSTM whose gates f and i see each weight, its gradient and the loss. Losses and
    gradients are inputs: as in the paper nothing is differentiated through them. The backbone is θ_0; the head
    starts from zero, so any way can be evaluated. Memory grows with hidden · weights · inner_steps: about 10 MB a
    step for the 30 000 weights of a small `conv`, a hundred times as much for a ResNet-12.

    Args:
        inner_steps: inner steps, in training and in evaluation, 1 to 64. The paper takes 12 for one shot, 5 for
            five.
        hidden: units H of the first layer, 1 to 256; 20 in the paper.
        inner_lr: the input gate at the start, in (0, 1), before it is learned; about 0.01 in the paper.
    """

    def __init__(
        self,
        backbone: Backbone,
        setting: Setting,
        *,
        inner_steps: int = 5,
        hidden: int = 20,
        inner_lr: float = 0.01,
    ) -> None:
        super().__init__(backbone, setting)
        weights = sum(weight.numel() for weight in backbone.parameters())
        if weights > _MOST_WEIGHTS:
            raise ConfigError(
                f"lstm: the backbone has {weights:,} weights, more than {_MOST_WEIGHTS:,} take too much memory"
            )
        if not 1 <= inner_steps <= 64:
            raise ConfigError(f"lstm.inner_steps = {inner_steps}: it may be 1 … 64")
        if not 1 <= hidden <= 256:
            raise ConfigError(f"lstm.hidden = {hidden}: it may be 1 … 256")
        if not 0 < inner_lr < 1:
            raise ConfigError(f"lstm.inner_lr = {inner_lr}: it must be in (0, 1)")
        self.inner_steps = inner_steps
        self.gates = Gates(hidden, inner_lr)

    @property
    def steps(self) -> int:
        return self.inner_steps

    def trajectory(self, tasks: EpisodeBatch, *, create_graph: bool) -> Iterator[Weights]:
        """As in every task learner; `create_graph` keeps the way back through the gates."""
        weights, state = self.initial_weights(tasks.way), None
        for step in range(self.inner_steps):
            leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
            loss = self.support_loss(leaves, tasks, step)
            found = gradients(loss, leaves, list(leaves), create_graph=False)
            with torch.set_grad_enabled(create_graph):
                flat, gradient = _flat(weights), _flat(found)  # (P), (P)
                state = self.gates(gradient, loss.detach(), flat, state)
                weights = _like(weights, state.forget * flat - state.input * gradient)
            yield weights


class Gates(nn.Module):
    """Forget and input gate of every weight, by an LSTM that all weights share and a layer above it.

    f_t = σ(W_f [h_t, θ_{t-1}, f_{t-1}] + b_f), i_t likewise, with h_t the LSTM's output for the gradient and the loss
    (sections 3.1 and 3.2 of the paper).
    """

    def __init__(self, hidden: int, inner_lr: float) -> None:
        super().__init__()
        self.lstm = nn.LSTMCell(4, hidden)
        self.forget = nn.Linear(hidden + 2, 1)
        self.input = nn.Linear(hidden + 2, 1)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -_SMALL, _SMALL)
        nn.init.constant_(self.forget.bias, _FORGET_BIAS)
        nn.init.constant_(self.input.bias, math.log(inner_lr / (1 - inner_lr)))

    def forward(self, gradient: Tensor, loss: Tensor, weights: Tensor, state: GateState | None) -> GateState:
        """Gates for weights [P] with this gradient [P] and loss []; before the first step all state is zero."""
        if state is None:
            nothing, zero = gradient.new_zeros(len(gradient), self.lstm.hidden_size), torch.zeros_like(gradient)
            state = GateState(nothing, nothing, zero, zero)
        seen = torch.cat([preprocessed(gradient), preprocessed(loss).expand(len(gradient), 2)], dim=1)  # (P, 4)
        hidden, cell = self.lstm(seen, (state.hidden, state.cell))
        forget = self.forget(torch.cat([hidden, weights[:, None], state.forget[:, None]], dim=1))
        admit = self.input(torch.cat([hidden, weights[:, None], state.input[:, None]], dim=1))
        return GateState(hidden, cell, forget.squeeze(1).sigmoid(), admit.squeeze(1).sigmoid())


def preprocessed(x: Tensor) -> Tensor:
    """Magnitude and sign of numbers of any scale, [...] to [..., 2] (Andrychowicz et al. 2016, appendix A).

    (log|x| / p, sign x) where |x| is at least e^-p, and (-1, e^p x) below.
    """
    least = math.exp(-_SHARPNESS)
    magnitude = x.abs().clamp_min(least).log() / _SHARPNESS
    return torch.stack([magnitude, (x / least).clamp(-1, 1)], dim=-1)


def _flat(weights: Weights) -> Tensor:
    return torch.cat([weight.flatten() for weight in weights.values()])


def _like(weights: Weights, flat: Tensor) -> Weights:
    """A vector of all weights as tensors of the shapes and names they have in `weights`."""
    parts = flat.split([weight.numel() for weight in weights.values()])
    return {name: part.view_as(weight) for (name, weight), part in zip(weights.items(), parts, strict=True)}
