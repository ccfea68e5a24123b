"""The one place where a name becomes an object: a configuration is parsed and validated here, once, into a `Candidate`.

To add a learner, write its file in `learning/learners/`, add its row here and name it in a search space.
Its keyword-only constructor arguments become options `NAME.OPTION` of the space. Another package adds
one without touching this file, by an entry point in the group `autometa.learners` or `autometa.backbones`.
What else it declares, and where the driver reads that, is in `trial/abilities.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import entry_points
from typing import Any

from autometa.errors import ConfigError, did_you_mean
from autometa.learning.backbones.backbone import Backbone, Shape
from autometa.learning.backbones.blocks import Blocks
from autometa.learning.backbones.conv import Conv
from autometa.learning.backbones.lite import Lite
from autometa.learning.backbones.mlp import Mlp
from autometa.learning.backbones.pixels import Pixels
from autometa.learning.backbones.resnet12 import ResNet12
from autometa.learning.backbones.resnet18 import ResNet18
from autometa.learning.backbones.timm_model import TimmModel
from autometa.learning.backbones.transformers_model import TransformersModel
from autometa.learning.backbones.vit import ViT
from autometa.learning.backbones.wrn import WideResNet
from autometa.learning.learner import Learner, Setting
from autometa.learning.learners.anil import Anil
from autometa.learning.learners.boil import Boil
from autometa.learning.learners.cnaps import Cnaps
from autometa.learning.learners.frozen import Frozen
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
from autometa.learning.learners.tuned import Tuned
from autometa.learning.objective import ObjectiveOptions
from autometa.learning.training import TrainingOptions
from autometa.records import Budget, EpisodeSpec, Scalar, TrialConfig
from autometa.trial.options import check_kinds, options_of
from autometa.trial.withdrawn import WITHDRAWN

LEARNERS: dict[str, type[Learner]] = {
    "prototypical": Prototypical,
    "matching": Matching,
    "siamese": Siamese,
    "relation": Relation,
    "ridge": Ridge,
    "svm": Svm,
    "cnaps": Cnaps,
    "maml": Maml,
    "anil": Anil,
    "boil": Boil,
    "meta_sgd": MetaSgd,
    "reptile": Reptile,
    "lstm": LstmMetaLearner,
    "meta_networks": MetaNetworks,
    "reader": Reader,
    "pretrain": Pretrain,
    "frozen": Frozen,
    "tuned": Tuned,
}

BACKBONES: dict[str, type[Backbone]] = {
    "conv": Conv,
    "resnet12": ResNet12,
    "resnet18": ResNet18,
    "wrn": WideResNet,
    "vit": ViT,
    "mlp": Mlp,
    "blocks": Blocks,
    "lite": Lite,
    "timm": TimmModel,
    "transformers": TransformersModel,
    "pixels": Pixels,
}


@dataclass(frozen=True)
class Sampling:
    """How training images are drawn. `train_way`, `train_shot` and `train_query` 0 mean those of the evaluation
    episodes; with `rotations` a class under each quarter turn is a class of its own. Of each train class `train_images`
    are drawn from, 0 for all: of a pretrained network the first look at an image is dear.
    """

    episodes_per_step: int = 4
    train_way: int = 0
    train_shot: int = 0
    train_query: int = 0
    train_images: int = 0
    augment: str = "none"
    rotations: bool = False

    def __post_init__(self) -> None:
        for name, value in (("shot", self.train_shot), ("query", self.train_query)):
            if value < 0:
                raise ConfigError(f"train_{name} = {value}: it must be at least 0, the {name} of the evaluation")
        if self.train_images < 0:
            raise ConfigError(f"train_images = {self.train_images}: it must be at least 0, for all")

    def episodes(self, evaluated: EpisodeSpec, classes: int) -> EpisodeSpec:
        """Training episodes of a candidate that is evaluated on such episodes, from so many train classes."""
        way = min(self.train_way or evaluated.way, classes)
        shot, query = self.train_shot or evaluated.shot, self.train_query or evaluated.query
        return evaluated.model_copy(update={"way": way, "shot": shot, "query": query})


@dataclass(frozen=True)
class Loss:
    """What every learner's training loss shares."""

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing = {self.label_smoothing}: it must be in [0, 1)")


# Options of every configuration, whatever the learner and the backbone.
COMMON = (TrainingOptions, Sampling, Loss, ObjectiveOptions)
# Options that a configuration may give to any backbone without its name; `maml.norm` is what the backbone
# gets under that learner, as `tuned.outer_lr` is the outer rate under that learner.
_OF_BACKBONES = ("norm",)


@dataclass(frozen=True)
class Part:
    """A learner or backbone by its name, and the options its constructor gets; those left out keep their default."""

    name: str
    kind: type[Any]
    options: Mapping[str, Scalar]

    def __post_init__(self) -> None:
        known = options_of(self.kind)
        for option in self.options:
            if option not in known:
                raise ConfigError(f"{self.name} has no option {option!r}; {did_you_mean(option, known)}")
        check_kinds(self.options, self.kind, f"{self.name}.")

    def build(self, *needs: Any) -> Any:
        """The object, made of what its constructor needs beside options."""
        try:
            return self.kind(*needs, **self.options)
        except (TypeError, ValueError, OverflowError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{self.name}: its options do not fit together: {reason}") from None


@dataclass(frozen=True)
class Candidate:
    """A configuration, parsed and validated: all that a trial is made of but its data, budget and seed."""

    learner: Part
    backbone: Part
    training: TrainingOptions
    sampling: Sampling
    loss: Loss
    objective: ObjectiveOptions

    def __post_init__(self) -> None:
        if self.objective.attack_epsilon and not self.learner.kind.trains_on_episodes:
            epsilon = self.objective.attack_epsilon
            raise ConfigError(f"attack_epsilon = {epsilon}: {self.learner.name} is not trained on episodes")

    def build(self, *, image_shape: Shape, way: int, train_classes: int) -> Learner:
        """The learner with fresh weights, from torch's global generator.

        Args:
            way: classes of an evaluation episode.
            train_classes: classes that training images come from.

        Raises:
            ConfigError: a value that an option does not take, or parts that do not fit together or the images.
        """
        setting = Setting(way=way, train_classes=train_classes, label_smoothing=self.loss.label_smoothing)
        learner: Learner = self.learner.build(self.backbone.build(image_shape), setting)
        return learner


def candidate(config: TrialConfig, *, budget: Budget | None = None, where: str | None = None) -> Candidate:
    """What a configuration describes. Options it leaves out keep their defaults.

    Args:
        budget: of its training, if the configuration may be an earlier one, which counts some options in outer steps.
        where: what errors call a configuration that a person wrote, in which every name must mean something.

    Raises:
        ConfigError: an unknown name or option, a value of the wrong kind or out of range, or values that exclude
            each other.
    """
    try:
        return _parsed(config if budget is None else _in_parts(config, budget.steps), is_strict=where is not None)
    except ConfigError as error:
        if where is None:
            raise
        raise ConfigError(f"{where}: {error}") from None


def _parsed(config: TrialConfig, *, is_strict: bool) -> Candidate:
    names = {kind: _chosen(kind, config) for kind in tables()}
    if is_strict:
        _check_every_name(config, names)
    learner, backbone = names["learner"], names["backbone"]
    own = set(options_of(tables()["learner"][learner]))
    common: dict[type, Any] = {kind: kind(**_common_options(kind, config, learner, own)) for kind in COMMON}
    if common[Sampling].rotations and config.values.get("pretrain.rotation_weight"):
        raise ConfigError("pretrain.rotation_weight: with rotations = true no image says which way is up")
    given = {k: config.values.get(f"{learner}.{k}", config.values.get(k)) for k in _OF_BACKBONES}
    for_backbone = {k: v for k, v in given.items() if v is not None} | config.options(backbone)
    for_learner = {k: v for k, v in config.options(learner).items() if k in own or k not in _of_all()}
    return Candidate(
        backbone=Part(backbone, tables()["backbone"][backbone], for_backbone),
        learner=Part(learner, tables()["learner"][learner], for_learner),
        training=common[TrainingOptions],
        sampling=common[Sampling],
        loss=common[Loss],
        objective=common[ObjectiveOptions],
    )


def _chosen(kind: str, config: TrialConfig) -> str:
    """The name of the configuration's learner or backbone; where it gives none the learner's, or first of the table."""
    usual = next(iter(tables()[kind]))
    if kind == "backbone":
        usual = tables()["learner"][_chosen("learner", config)].backbone_name or usual
    name = str(config.values.get(kind, usual))
    if name not in tables()[kind]:
        raise ConfigError(f"unknown {kind} {name!r}; {did_you_mean(name, tables()[kind])}")
    return name


def _check_every_name(config: TrialConfig, chosen: Mapping[str, str]) -> None:
    known = common_names().union(*(dotted_names(name, tables()[kind][name]) for kind, name in chosen.items()))
    for name in config.values:
        if name not in known:
            raise ConfigError(f"{name!r} means nothing here; {did_you_mean(name, known)}")


def common_names() -> set[str]:
    """Names that mean something in a configuration, whatever the learner and the backbone."""
    return {*tables(), *WITHDRAWN, *_of_all()}


def dotted_names(name: str, kind: type) -> set[str]:
    """Names in a configuration that belong to one learner or backbone."""
    further = _of_all() if issubclass(kind, Learner) else _OF_BACKBONES
    return {f"{name}.{option}" for option in (*options_of(kind), *further)}


@functools.cache
def _of_all() -> tuple[str, ...]:
    """Options that a configuration may give without the name of a learner or backbone, or with that of its learner."""
    return (*_OF_BACKBONES, *(field.name for kind in COMMON for field in fields(kind)))


def _common_options(kind: type, config: TrialConfig, learner: str, own: Collection[str]) -> dict[str, Any]:
    """The configuration's values for the fields of a dataclass of common options: those with the learner's name first.

    Args:
        own: options of the learner, which are its alone.
    """
    names = {field.name for field in fields(kind)}
    found = {k: v for k, v in config.values.items() if k in names}
    check_kinds(found, kind)
    of_learner = {k: v for k, v in config.options(learner).items() if k in names and k not in own}
    check_kinds(of_learner, kind, f"{learner}.")
    return found | of_learner


# Options that count outer steps in earlier recipes and checkpoints, and what has taken their place: parts of training.
_ONCE_IN_STEPS = {"maml.multi_step_loss": "maml.multi_step_loss", "maml.first_order_steps": "maml.first_order_share"}


def _in_parts(config: TrialConfig, steps: int | None) -> TrialConfig:
    """The configuration with parts of a training of so many outer steps where earlier ones have a number of them.

    Where nobody knows how many steps there are, it is all of training.
    """
    values = dict(config.values)
    for before, now in _ONCE_IN_STEPS.items():
        count = values.get(before)
        if isinstance(count, int | float) and (before != now or count > 1):
            del values[before]
            values[now] = min(1.0, count / steps) if steps else float(count > 0)
    return TrialConfig(values=values)


@functools.cache
def tables() -> Mapping[str, Mapping[str, type[Any]]]:
    """Learners and backbones by name: those above, and those that other installed packages add.

    Raises:
        ConfigError: an entry point cannot be loaded, or takes a name of this package.
    """
    return {
        "learner": LEARNERS | _from_entry_points("autometa.learners", Learner, LEARNERS),
        "backbone": BACKBONES | _from_entry_points("autometa.backbones", Backbone, BACKBONES),
    }


def _from_entry_points(group: str, base: type, taken: Mapping[str, type]) -> dict[str, type]:
    found = {}
    for point in entry_points(group=group):
        try:
            kind = point.load()
        except Exception as error:
            raise ConfigError(f"entry point {point.name!r} in {group} cannot be loaded: {error}") from error
        if not (isinstance(kind, type) and issubclass(kind, base)) or point.name in taken:
            raise ConfigError(f"entry point {point.name!r} in {group}: not a new {base.__name__}")
        found[point.name] = kind
    return found
