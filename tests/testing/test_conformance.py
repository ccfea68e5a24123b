"""Every learner and backbone of the package passes the conformance kit."""

from __future__ import annotations

from typing import Any

import pytest

from autometa.testing import check_backbone, check_learner
from autometa.trial import build

LEARNERS: list[tuple[str, dict[str, Any]]] = [
    ("prototypical", {}),
    ("prototypical", {"metric": "cosine", "learned_temperature": True}),
    ("prototypical", {"transduction": "soft_kmeans"}),
    ("matching", {"scale": 5.0, "learned_scale": True}),
    ("matching", {"full_context": True, "context_steps": 2}),
    ("matching", {"full_context": True, "orders": 3}),
    ("siamese", {}),
    ("siamese", {"match": "mean"}),
    ("relation", {}),
    ("relation", {"loss_kind": "cross_entropy", "hidden": 4, "width": 16}),
    ("relation", {"side": 8}),
    ("ridge", {}),
    ("ridge", {"learned": False, "normalize": True, "regularization": 0.3}),
    ("svm", {}),
    ("svm", {"penalty": 1.0, "solver_steps": 20}),
    ("cnaps", {}),
    ("cnaps", {"head": "mahalanobis"}),
    ("maml", {"inner_steps": 2}),
    ("maml", {"inner_steps": 1, "first_order": True, "learned_rates": True}),
    ("maml", {"inner_steps": 2, "learned_rates": True, "rates_per_step": True, "multi_step_loss": 0.9}),
    ("maml", {"inner_steps": 2, "per_step_norm": True}),
    ("anil", {"inner_steps": 3}),
    ("boil", {}),
    ("meta_sgd", {}),
    ("reptile", {}),
    ("lstm", {"inner_steps": 2, "inner_lr": 0.1}),
    ("meta_networks", {}),
    ("reader", {"dim": 32}),
    ("reader", {"dim": 32, "depth": 1, "heads": 2}),
    ("pretrain", {"head": "cosine", "mixing": "mixup"}),
    ("pretrain", {"head": "finetune", "train_head": "cosine"}),
    ("pretrain", {"head": "cosine_classifier", "train_head": "cosine"}),
    ("pretrain", {"head": "finetune", "support_copies": 3}),
    ("pretrain", {"head": "ridge", "rotation_weight": 0.5, "distillation_weight": 0.1}),
    ("pretrain", {"transduction": "pseudo_label"}),
    ("frozen", {}),
    ("frozen", {"head": "mahalanobis", "power": 0.5}),
    ("frozen", {"head": "svm", "centre": "support"}),
    ("frozen", {"head": "logistic", "centre": "none", "whiten": 0.5, "dims": 3}),
    ("frozen", {"head": "ridge"}),
    ("tuned", {}),
]

BACKBONES: list[tuple[str, dict[str, Any]]] = [
    ("conv", {"depth": 3, "width": 8}),
    ("conv", {"depth": 2, "width": 16, "pooling": "mean", "readout": "mean"}),
    ("conv", {"widths": "8-16-24", "joined_blocks": 2}),
    ("conv", {"depth": 3, "width": 8, "pooled_blocks": 2}),
    ("resnet12", {"width": 4, "wide": True, "drop_rate": 0.2, "drop_block": 3}),
    ("resnet12", {"width": 4}),
    ("resnet18", {"width": 8}),
    ("wrn", {"depth": 10, "factor": 1}),
    ("wrn", {"depth": 10, "factor": 1, "drop_rate": 0.3}),
    ("vit", {"patch": 4, "dim": 12, "depth": 2, "heads": 3, "mlp_ratio": 1.5, "drop_rate": 0.0}),
    ("vit", {"patch": 4, "dim": 12, "depth": 1, "heads": 2, "drop_rate": 0.1}),
    ("mlp", {"depth": 2, "width": 24}),
    ("pixels", {}),
    *(
        ("blocks", {"stages": 3, "width1": 6, "width2": 8, "width3": 16, "depth2": 2, "kernel1": 5, "attention2": True}
        | {f"block{stage}": kind for stage in (1, 2, 3)})
        for kind in ("plain", "residual", "depthwise", "convnext")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), LEARNERS, ids=str)
def test_a_learner_keeps_what_every_learner_promises(name: str, options: dict[str, Any]) -> None:
    check_learner(build.LEARNERS[name], **options)


@pytest.mark.parametrize(("name", "options"), BACKBONES, ids=str)
def test_a_backbone_keeps_what_every_backbone_promises(name: str, options: dict[str, Any]) -> None:
    check_backbone(build.BACKBONES[name], **options)


def test_no_learner_or_backbone_is_left_out() -> None:
    assert {name for name, _ in LEARNERS} == set(build.LEARNERS)
    # These take images of colours alone: `tests/learning/test_backbones.py` and `test_lite.py` check them.
    assert {name for name, _ in BACKBONES} == set(build.BACKBONES) - {"timm", "lite", "transformers"}
