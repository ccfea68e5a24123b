"""Several learners that answer together: the mean of their class probabilities, each with a temperature and a weight.

Temperatures make the probabilities of different learners comparable: a distance may be as sure of itself as a fitted
classifier, and be right less often. Weights come from greedy selection (Caruana et al. 2004, ICML).

Symbols: M members, E episodes, Q query images of an episode, N classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autometa.data.episodes import EpisodeBatch
from autometa.learning.learner import Learner, TrainingSource
from autometa.learning.views import mean_logits

# Picks of the greedy selection, with repetition; each is 1/20 of the weight.
_PICKS = 20
# Temperatures that are tried, from a tenth to thirty.
_TEMPERATURES = torch.logspace(-1.0, 1.5, 51)


@dataclass(frozen=True)
class Mixture:
    """How the members answer together: a temperature above 0 for each, and weights that add up to 1."""

    temperatures: tuple[float, ...]
    weights: tuple[float, ...]

    def log_probabilities(self, logits: Sequence[Tensor]) -> Tensor:
        """Of the members' logits, each [..., N], the log of their weighted mean probabilities [..., N]."""
        parts = [
            F.log_softmax(one / temperature, -1) + math.log(weight)
            for one, temperature, weight in zip(logits, self.temperatures, self.weights, strict=True)
            if weight > 0
        ]
        return torch.logsumexp(torch.stack(parts), 0)


class Ensemble(Learner):
    """Trained learners of one task, answering together. It is not trained: its members are.

    Args:
        members: of one setting and image shape.
        mixture: of as many members.
        views: of each member, a name in `VIEWS`: it answers with the mean over these.
    """

    def __init__(self, members: Sequence[Learner], mixture: Mixture, views: Sequence[str] | None = None) -> None:
        super().__init__(members[0].backbone, members[0].setting)
        self.members = nn.ModuleList(members)
        self.mixture = mixture
        self.views = tuple(views or ["plain"] * len(members))

    def outer_step(self, source: TrainingSource) -> dict[str, Tensor]:
        raise NotImplementedError("members are trained, an ensemble is not")

    def query_logits(self, episodes: EpisodeBatch) -> Tensor:
        pairs = zip(self.learners, self.views, strict=True)
        return self.mixture.log_probabilities([mean_logits(member, episodes, views) for member, views in pairs])

    @property
    def learners(self) -> list[Learner]:
        """Its members."""
        return [member for member in self.members if isinstance(member, Learner)]

    @property
    def transductive(self) -> bool:
        return any(member.transductive for member in self.learners)


def fit_mixture(logits: Sequence[Tensor], targets: Tensor) -> Mixture:
    """Temperatures and weights by what the members say of episodes whose answers are known.

    Each temperature minimises the member's own cross-entropy. Then members are picked one at a time, with repetition:
    whichever lowers the cross-entropy of the mean probabilities most. The best mean of all passed is returned.

    Args:
        logits: of each member, [E, Q, N].
        targets: class indices [E, Q].
    """
    temperatures = tuple(_temperature(one, targets) for one in logits)
    each = torch.stack([F.softmax(one / t, -1) for one, t in zip(logits, temperatures, strict=True)])  # [M, E, Q, N]
    right = each.gather(-1, targets.expand(len(each), *targets.shape).unsqueeze(-1)).squeeze(-1)  # [M, E, Q]
    counts, total = torch.zeros(len(each)), torch.zeros_like(right[0])
    best, chosen = math.inf, counts
    for picks in range(1, _PICKS + 1):
        losses = -((total + right) / picks).clamp_min(1e-12).log().mean((1, 2))  # [M]
        pick = int(losses.argmin())
        counts = counts.clone()
        counts[pick] += 1
        total = total + right[pick]
        if float(losses[pick]) < best - 1e-9:
            best, chosen = float(losses[pick]), counts
    return Mixture(temperatures, tuple((chosen / chosen.sum()).tolist()))


def best_views(logits: Mapping[str, Tensor], targets: Tensor) -> str:
    """The name of the views whose logits [E, Q, N], each with its temperature, have the lowest cross-entropy."""
    return min(logits, key=lambda views: float(_losses(logits[views], targets).min()))


def _temperature(logits: Tensor, targets: Tensor) -> float:
    return float(_TEMPERATURES[int(_losses(logits, targets).argmin())])


def _losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropies at all temperatures."""
    return torch.stack([F.cross_entropy((logits / t).flatten(0, -2), targets.flatten()) for t in _TEMPERATURES])
