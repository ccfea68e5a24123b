"""Cross-entropy whose label smoothing may be a tensor, as it is where stacked candidates differ in it."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(
    logits: Tensor, labels: Tensor, label_smoothing: float | Tensor = 0.0, *, reduction: str = "mean"
) -> Tensor:
    """`F.cross_entropy` of logits [M, N] with labels [M]; the reduction is "mean", or "none" for [M]."""
    if not isinstance(label_smoothing, Tensor):
        return F.cross_entropy(logits, labels, reduction=reduction, label_smoothing=label_smoothing)
    # Written out, since torch takes no tensor there.
    log_shares = logits.log_softmax(-1)
    own = log_shares.gather(-1, labels[:, None])[:, 0]
    each = (label_smoothing - 1) * own - label_smoothing * log_shares.mean(-1)
    return each if reduction == "none" else each.mean()
