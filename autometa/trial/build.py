"""The one place where a name becomes an object: learners and backbones by the names a space may use.

To add a learner, write its file in `learning/learners/`, add its row here and name it in a search space.
Its keyword-only constructor arguments become options `NAME.OPTION` of the space. Another package adds
one without touching this file, by an entry point in the group `autometa.learners` or `autometa.backbones`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib.metadata import entry_points
from typing import Any

from autometa.errors import ConfigError, did_you_mean
from autometa.learning.backbones.backbone import Backbone, Shape
from autometa.learning.backbones.blocks import Blocks
from autometa.learning.backbones.conv import Conv
from autometa.learning.backbones.mlp import Mlp
from autometa.learning.backbones.resnet12 import ResNet12
from autometa.learning.backbones.resnet18 import ResNet18
from autometa.learning.backbones.timm_model import TimmModel
from autometa.learning.backbones.vit import ViT
from autometa.learning.backbones.wrn import WideResNet
from autometa.learning.learner import Learner, Setting
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
from autometa.learning.objective import ObjectiveOptions
from autometa.learning.training import TrainingOptions
from autometa.records import EpisodeSpec, Scalar, TrialConfig

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
}

BACKBONES: dict[str, type[Backbone]] = {
    "conv": Conv,
    "resnet12": ResNet12,
    "resnet18": ResNet18,
    "wrn": WideResNet,
    "vit": ViT,
    "mlp": Mlp,
    "blocks": Blocks,
    "timm": TimmModel,
}


@dataclass(frozen=True)
class Sampling:
    """How training images are drawn. `train_way` and `train_shot` 0 mean those of the evaluation episodes; with
    `rotations` a class under each quarter turn is a class of its own.
    """

    episodes_per_step: int = 4
    train_way: int = 0
    train_shot: int = 0
    augment: str = "none"
    rotations: bool = False

    def episodes(self, evaluated: EpisodeSpec, classes: int) -> EpisodeSpec:
        """Training episodes of a candidate that is evaluated on such episodes, from so many train classes."""
        way = min(self.train_way or evaluated.way, classes)
        return evaluated.model_copy(update={"way": way, "shot": self.train_shot or evaluated.shot})


@dataclass(frozen=True)
class Loss:
    """What every learner's training loss shares."""

    label_smoothing: float = 0.0


# Options of every configuration, whatever the learner and the backbone.
COMMON = (TrainingOptions, Sampling, Loss, ObjectiveOptions)
# Options that a configuration may give to any backbone without its name; `maml.norm` is what the backbone
# gets under that learner.
OF_BACKBONES = ("norm",)

# Options that count outer steps in earlier recipes and checkpoints, and what has taken their place: parts of training.
_ONCE_IN_STEPS = {"maml.multi_step_loss": "maml.multi_step_loss", "maml.first_order_steps": "maml.first_order_share"}


def in_parts(config: TrialConfig, steps: int | None) -> TrialConfig:
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


def build_learner(config: TrialConfig, *, image_shape: Shape, setting: Setting) -> Learner:
    """The learner a configuration describes, with fresh weights from torch's global generator.

    Raises:
        ConfigError: an unknown name or option, a value that the option does not take, or parts that do not
            fit together.
    """
    backbone = _built(chosen("backbone", config), "backbone", config, image_shape)
    learner: Learner = _built(chosen("learner", config), "learner", config, backbone, setting)
    return learner


def setting_of(config: TrialConfig, *, way: int, train_classes: int) -> Setting:
    """What the learner must know of its task."""
    loss = Loss(**plain_options(Loss, config))
    if not 0 <= loss.label_smoothing < 1:
        raise ConfigError(f"label_smoothing = {loss.label_smoothing}: it must be in [0, 1)")
    return Setting(way=way, train_classes=train_classes, label_smoothing=loss.label_smoothing)


def training_options(config: TrialConfig) -> TrainingOptions:
    """Optimiser and schedule of a configuration; what it leaves out keeps its default."""
    return TrainingOptions(**plain_options(TrainingOptions, config))


def sampling(config: TrialConfig) -> Sampling:
    """How training episodes are drawn; what the configuration leaves out keeps its default.

    Raises:
        ConfigError: a training shot below 0.
    """
    how = Sampling(**plain_options(Sampling, config))
    if how.train_shot < 0:
        raise ConfigError(f"train_shot = {how.train_shot}: it must be at least 0, the shot of the evaluation")
    return how


def objective_options(config: TrialConfig) -> ObjectiveOptions:
    """What is added to the learner's own loss; nothing by default.

    Raises:
        ConfigError: a weight out of range, or adversarial episodes for a learner that trains on none.
    """
    options = ObjectiveOptions(**plain_options(ObjectiveOptions, config))
    name = chosen("learner", config)
    learner: type[Learner] = tables()["learner"][name]
    if options.attack_epsilon and not learner.trains_on_episodes:
        raise ConfigError(f"attack_epsilon = {options.attack_epsilon}: {name} is not trained on episodes")
    if sampling(config).rotations and config.values.get("pretrain.rotation_weight"):
        raise ConfigError("pretrain.rotation_weight: with rotations = true no image says which way is up")
    return options


@functools.cache
def tables() -> Mapping[str, Mapping[str, type]]:
    """Learners and backbones by name: those above, and those that other installed packages add.

    Raises:
        ConfigError: an entry point cannot be loaded, or takes a name of this package.
    """
    return {
        "learner": LEARNERS | _from_entry_points("autometa.learners", Learner, LEARNERS),
        "backbone": BACKBONES | _from_entry_points("autometa.backbones", Backbone, BACKBONES),
    }


def chosen(kind: str, config: TrialConfig) -> str:
    """The name of the configuration's learner or backbone; the first of the table where it gives none."""
    name = str(config.values.get(kind, next(iter(tables()[kind]))))
    if name not in tables()[kind]:
        raise ConfigError(f"unknown {kind} {name!r}; {did_you_mean(name, tables()[kind])}")
    return name


def options_of(kind: Callable[..., Any]) -> list[str]:
    """The keyword-only arguments of a constructor."""
    signature = inspect.signature(kind)
    return [name for name, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY]


def plain_options(kind: type, config: TrialConfig) -> dict[str, Any]:
    """The configuration's values for the fields of a dataclass of common options."""
    names = {field.name for field in fields(kind)}
    found = {k: v for k, v in config.values.items() if k in names}
    check_kinds(found, kind)
    return found


_KINDS: dict[type, tuple[str, tuple[type, ...]]] = {
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (int, float)),
    str: ("a text", (str,)),
}
_LARGEST = 2**63 - 1  # what tensors hold


def check_kinds(options: Mapping[str, Scalar], kind: type, prefix: str = "") -> None:
    """Raise `ConfigError` where the value of an option is not of the kind that a constructor says it takes.

    What has no such annotation is left alone: a learner of another package need not have any.
    """
    wanted = _annotations(kind)
    for name, value in options.items():
        if wanted.get(name) not in _KINDS:
            continue
        words, kinds = _KINDS[wanted[name]]
        is_kind = type(value) in kinds  # true is an int for Python
        if not is_kind or (isinstance(value, int) and abs(value) > _LARGEST):
            raise ConfigError(f"{prefix}{name} = {value!r}: it must be {words}")


@functools.cache
def _annotations(kind: type) -> Mapping[str, Any]:
    try:
        parameters = inspect.signature(kind, eval_str=True).parameters
    except NameError:  # one that is there for type checkers alone
        return {}
    return {name: parameter.annotation for name, parameter in parameters.items()}


def _built(name: str, kind: str, config: TrialConfig, *needs: Any) -> Any:
    make = tables()[kind][name]
    options: dict[str, Any] = config.options(name)
    if kind == "learner":
        options = {k: v for k, v in options.items() if k not in OF_BACKBONES}
    else:
        options = _for_any_backbone(config) | options
    for option in options:
        if option not in options_of(make):
            raise ConfigError(f"{name} has no option {option!r}; {did_you_mean(option, options_of(make))}")
    check_kinds(options, make, f"{name}.")
    try:
        return make(*needs, **options)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f"{name}: its options do not fit together: {str(error).splitlines()[0]}") from None


def _for_any_backbone(config: TrialConfig) -> dict[str, Scalar]:
    learner = chosen("learner", config)
    found = {k: config.values.get(f"{learner}.{k}", config.values.get(k)) for k in OF_BACKBONES}
    return {k: v for k, v in found.items() if v is not None}


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
