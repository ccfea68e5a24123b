"""What holds for every learner, whatever its method."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autometa.data.episodes import EpisodeBatch
from autometa.errors import ConfigError
from autometa.learning.backbones.conv import Conv
from autometa.learning.backbones.resnet12 import ResNet12
from autometa.learning.learner import Learner
from autometa.learning.learners.anil import Anil
from autometa.learning.learners.boil import Boil
from autometa.learning.learners.cnaps import Cnaps
from autometa.learning.learners.lstm import LstmMetaLearner
from autometa.learning.learners.maml import Maml
from autometa.learning.learners.matching import Matching
from autometa.learning.learners.meta_networks import MetaNetworks
from autometa.learning.learners.meta_sgd import MetaSgd
from autometa.learning.learners.pretrain import Pretrain
from autometa.learning.learners.prototypical import Prototypical
from autometa.learning.learners.reader import Reader
from autometa.learning.learners.relation import Relation
from autometa.learning.learners.reptile import Reptile
from autometa.learning.learners.ridge import Ridge
from autometa.learning.learners.siamese import Siamese
from autometa.learning.learners.svm import Svm
from tests.conftest import make_episodes
from tests.learning.small import SETTING, Fixed, Identity, double

LEARNERS: list[tuple[type[Learner], dict[str, Any]]] = [
    (Prototypical, {}),
    (Prototypical, {"metric": "cosine", "learned_temperature": True}),
    (Matching, {"scale": 5.0, "learned_scale": True}),
    (Matching, {"full_context": True, "context_steps": 2}),
    (Matching, {"full_context": True, "orders": 3}),
    (Siamese, {}),
    (Siamese, {"match": "mean"}),
    (Relation, {}),
    (Relation, {"loss_kind": "cross_entropy", "hidden": 4, "width": 16}),
    (Relation, {"side": 8}),
    (Ridge, {}),
    (Ridge, {"learned": False, "normalize": True, "regularization": 0.3}),
    (Svm, {}),
    (Svm, {"penalty": 1.0, "solver_steps": 20}),
    (Cnaps, {}),
    (Cnaps, {"head": "mahalanobis"}),
    (Maml, {"inner_steps": 2}),
    (Maml, {"inner_steps": 1, "first_order": True, "learned_rates": True}),
    (Maml, {"inner_steps": 2, "learned_rates": True, "rates_per_step": True, "multi_step_loss": 0.9}),
    (Maml, {"inner_steps": 2, "per_step_norm": True}),
    (Anil, {"inner_steps": 3}),
    (Boil, {}),
    (MetaSgd, {}),
    (Reptile, {}),
    (LstmMetaLearner, {"inner_steps": 2, "inner_lr": 0.1}),
    (MetaNetworks, {}),
    (Reader, {"dim": 32}),
    (Reader, {"dim": 32, "depth": 1, "heads": 2}),
    (Pretrain, {"head": "cosine", "mixing": "mixup"}),
    (Pretrain, {"head": "finetune", "train_head": "cosine"}),
    (Pretrain, {"head": "cosine_classifier", "train_head": "cosine"}),
    (Pretrain, {"head": "finetune", "support_copies": 3}),
    (Pretrain, {"head": "ridge", "rotation_weight": 0.5, "distillation_weight": 0.1}),
]


@pytest.mark.parametrize("norm", ["running", "support", "per_step", "group", "none"])
@pytest.mark.parametrize(("kind", "options"), LEARNERS)
def test_inductive_learners_use_nothing_of_the_other_query_images(
    kind: type[Learner], options: dict[str, Any], norm: str
) -> None:
    torch.manual_seed(1)
    learner = kind(Conv((2, 8, 8), depth=2, width=8, norm=norm), SETTING, **options).double()
    assert not learner.transductive
    episodes = double(make_episodes())
    learner.outer_step(Fixed(episodes))  # so that running statistics are not their initial ones
    learner.eval()
    before = learner.query_logits(episodes)
    queries = episodes.query_x.clone()
    queries[:, 1:] = torch.randn_like(queries[:, 1:]) * 5
    changed = EpisodeBatch(episodes.support_x, episodes.support_y, queries, episodes.query_y, episodes.way)
    torch.testing.assert_close(learner.query_logits(changed)[:, 0], before[:, 0], rtol=1e-10, atol=1e-10)


def test_a_learner_with_transductive_statistics_says_so() -> None:
    learner = Prototypical(Conv((2, 8, 8), depth=1, width=4, norm="transductive"), SETTING)
    assert learner.transductive


@pytest.mark.parametrize(("kind", "options"), LEARNERS)
def test_a_few_outer_steps_lower_the_loss(kind: type[Learner], options: dict[str, Any]) -> None:
    torch.manual_seed(2)
    learner = kind(Conv((2, 8, 8), depth=2, width=8, norm="group"), SETTING, **options)
    source = Fixed(make_episodes())
    optimizer = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], lr=0.01)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        losses.append(float(learner.outer_step(source)["loss"]))
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("norm", ["support", "transductive"])
@pytest.mark.parametrize(("kind", "options"), LEARNERS)
def test_scores_do_not_depend_on_how_tasks_are_batched(kind: type[Learner], options: dict[str, Any], norm: str) -> None:
    torch.manual_seed(3)
    learner = kind(ResNet12((2, 8, 8), width=4, norm=norm), SETTING, **options).double().eval()
    episodes = double(make_episodes(batch=3))
    together = learner.query_logits(episodes)
    alone = torch.cat([learner.query_logits(episodes.episode(i)) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Prototypical(Identity(), SETTING, temperature=0),
        lambda: Prototypical(Identity(), SETTING, metric="manhattan"),
        lambda: Maml(Identity(), SETTING, inner_steps=0),
        lambda: Maml(Identity(), SETTING, inner_lr=-1.0),
        lambda: Anil(Identity(), SETTING, inner_steps=0),
        lambda: Pretrain(Identity(), SETTING, head="svm"),
        lambda: Conv((1, 8, 8), depth=0),
        lambda: ResNet12((1, 8, 8), drop_rate=1.0),
    ],
)
def test_an_option_out_of_range_names_itself(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"\w+\.\w+ = "):
        make()


# But in Boil and Reader, which have a head or an embedding of their own for each label, and with full context
# embeddings, whose recurrent network reads the support set in order.
@pytest.mark.parametrize(
    ("kind", "options"), [(k, o) for k, o in LEARNERS if k not in (Boil, Reader) and "full_context" not in o]
)
def test_the_order_of_class_labels_does_not_matter(kind: type[Learner], options: dict[str, Any]) -> None:
    torch.manual_seed(9)
    learner = kind(Conv((2, 8, 8), depth=2, width=8, norm="group"), SETTING, **options).double().eval()
    task = double(make_episodes(batch=1, shot=2))
    order = torch.tensor([2, 0, 1])  # class c of the other task is class order[c] of this one
    support = task.support_x.unflatten(1, (3, 2))[:, order].flatten(1, 2)
    other = EpisodeBatch(support, task.support_y, task.query_x, task.query_y, task.way)
    torch.testing.assert_close(learner.query_logits(other), learner.query_logits(task)[..., order])
