"""What a search is made of, as frozen and validated plain data: written and read as TOML and JSON lines.

Knows nothing of torch, Optuna or Ray, so every package may share it.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from autometa.aliases import renamed
from autometa.errors import ConfigError

Scalar = bool | int | float | str

LARGEST_SEED = (
    2**62
)  # torch's generators take twice as much, and trials and confirmation add a little to a search's own


class Record(BaseModel):
    """Base of all records: frozen, and an unknown or missing field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


R = TypeVar("R", bound=Record)


class EpisodeSpec(Record):
    """One few-shot task: `way` classes, `shot` labelled and `query` unlabelled images of each."""

    way: int = Field(5, ge=2)
    shot: int = Field(1, ge=1)
    query: int = Field(15, ge=1)

    @property
    def chance(self) -> float:
        """Accuracy of guessing, in [0, 1]."""
        return 1 / self.way

    def __str__(self) -> str:
        return f"{self.way}w{self.shot}s"


class DataIdentity(Record):
    """What a data set is, wherever it lies: its content, and which of its classes are for what.

    `fingerprint` changes with any image, label or split. `classes` are names by split, and only say what a change
    is: they are empty where a data set of the catalog is written down for people, as its name says them.
    """

    fingerprint: str
    image_size: int = Field(ge=1)
    channels: int = Field(ge=1)
    classes: dict[str, list[str]] = {}

    def change_to(self, now: DataIdentity) -> str | None:
        """What is different now, in a few words; None where it is the same data."""
        if now.fingerprint == self.fingerprint:
            return None
        shapes = [f"{one.channels} × {one.image_size} × {one.image_size}" for one in (now, self)]
        if shapes[0] != shapes[1]:
            return f"its images are {shapes[0]}, not {shapes[1]}"
        return _class_changes(self.classes, now.classes) or "it has other images"


def _class_changes(before: Mapping[str, Sequence[str]], now: Mapping[str, Sequence[str]]) -> str:
    """`class 'x' is new and 'y' moved from train to test`; empty where nothing is known to be different."""
    if not before or not now:
        return ""
    was = {name: split for split, names in before.items() for name in names}
    has = {name: split for split, names in now.items() for name in names}
    moved = sorted(name for name in was.keys() & has.keys() if was[name] != has[name])
    parts = [
        _first_of(sorted(has.keys() - was.keys()), "is new"),
        _first_of(sorted(was.keys() - has.keys()), "is gone"),
        _first_of(moved, f"moved from {was[moved[0]]} to {has[moved[0]]}") if moved else "",
    ]
    return ", ".join(part for part in parts if part)


def _first_of(names: Sequence[str], what: str) -> str:
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"class {names[0]!r} {what}{more}" if names else ""


class Budget(Record):
    """How much meta-training one trial gets, and how often it is looked at.

    `steps` are outer steps, `seconds` wall-clock seconds of training (validation is not counted), and
    `teraflops` is 10^12 floating-point operations, counted, not timed, so that a large network on a
    small machine is cut at the same step everywhere. Training ends at whichever comes first, and
    learning-rate schedules run over the same span. Only budgets without `seconds` are reproducible bit
    for bit. With 0 steps nothing is trained: a model is measured as it was made.

    An `open` budget has no end: it is what the first rung costs, and each later rung costs twice as much as the one
    before. The learning rate is constant, weights are averaged, and training may stop and go on at any rung.
    """

    steps: int | None = Field(None, ge=0)
    seconds: float | None = Field(None, gt=0)
    teraflops: float | None = Field(None, gt=0)
    rungs: int = Field(9, ge=1, le=100)
    open: bool = False

    @model_validator(mode="after")
    def _has_an_end(self) -> Budget:
        if self.steps is None and self.seconds is None:
            raise ValueError("give steps or seconds")
        if self.steps == 0 and self.open:
            raise ValueError("an open budget needs at least 1 step")
        return self

    def __str__(self) -> str:
        parts = [f"{self.steps} steps"] if self.steps is not None else []
        if self.seconds:
            parts.append(f"{self.seconds:.3g} s")
        if self.teraflops:
            parts.append(f"{self.teraflops:.3g} TFLOP")
        return " or ".join(parts) + (", doubling" if self.open else "")

    def spent_at(self, rung: int) -> float:
        """What a rung, 1 and up, costs, as a multiple of the budget."""
        return 2.0 ** (rung - 1) if self.open else rung / self.rungs


_BUDGET = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>steps|step|s|sec|m|min|h)?")
_ENDLESS = 1e12
_SECONDS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600}


def parse_budget(text: str) -> Budget:
    """Read `400`, `400steps`, `90s`, `10m` or `2h` as a `Budget`; raises `ConfigError` on anything else."""
    match = _BUDGET.fullmatch(text.strip())
    number = float(match["number"]) if match else 0.0
    unit = (match["unit"] if match else None) or "steps"
    if not 0 < number < _ENDLESS or (unit in ("steps", "step") and number != int(number)):
        raise ConfigError(f"budget {text!r}: give a number of steps (400) or a time (90s, 10m, 2h)")
    if unit in ("steps", "step"):
        return Budget(steps=int(number))
    return Budget(seconds=number * _SECONDS[unit])


def parse_seconds(text: str) -> float:
    """Read `90`, `90s`, `10m` or `2h` as seconds; raises `ConfigError` on anything else."""
    match = _BUDGET.fullmatch(text.strip())
    unit = (match["unit"] if match else None) or "s"
    if match is None or unit not in _SECONDS or not 0 < float(match["number"]) < _ENDLESS:
        raise ConfigError(f"time {text!r}: give seconds (90) or a number with a unit (90s, 15m, 2h)")
    return float(match["number"]) * _SECONDS[unit]


class ClassInterval(Record):
    """A 95 % interval of an accuracy for new classes: over classes, their images, episodes, and seeds where there are.

    `families` is less than `classes` where classes belong together, as quarter turns of one class do. `seeds` is how
    many trainings of one configuration were measured; one says nothing of seeds. Where the classes `are_all` of the
    task, the interval is over images of these classes, and no new ones are meant.
    """

    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    classes: int = Field(ge=1)
    families: int = Field(ge=1)
    seeds: int = Field(1, ge=1)
    are_all: bool = False


class Accuracy(Record):
    """Query-set accuracy over episodes: the mean in [0, 1] and how sure it is.

    `half_width` is of the 95 % interval over episodes alone, for other episodes of the same classes, which papers
    report. `over_classes` is what new classes may show; None where it is not known, as in old archives and at the
    rungs of a trial. `look` says, on test classes, how many models had been measured on them, this one included.
    """

    mean: float = Field(ge=0, le=1)
    half_width: float = Field(ge=0)
    episodes: int = Field(ge=1)
    seed: int
    over_classes: ClassInterval | None = None
    look: int | None = Field(None, ge=1)

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width

    @property
    def sure(self) -> float:
        """The mean less one standard error: few episodes say little."""
        return self.mean - self.half_width / 2

    def __str__(self) -> str:
        return f"{100 * self.mean:.2f} ± {100 * self.half_width:.2f} % ({self.episodes} episodes)"


# Of any study; the prior makes matrices of trials and rungs.
MOST_RUNGS = 100_000


class RungReport(Record):
    """What one trial showed at one rung. `seconds` are of training, this trial's own, so far.

    `validation_seconds` is what this measurement took, `pass_seconds` the part of it that an image costs once, however
    many episodes it is in; 0 in older records. After a cool-down the model is `cooled`. Where that made it worse than
    it was at an earlier rung, `best_rung` says which, and accuracy and steps are of that model.
    """

    rung: int = Field(ge=1, le=MOST_RUNGS)
    accuracy: Accuracy
    steps: int = Field(ge=0)
    seconds: float = Field(ge=0)
    validation_seconds: float = Field(0.0, ge=0)
    pass_seconds: float = Field(0.0, ge=0)
    cooled: bool = False
    best_rung: int | None = Field(None, ge=1, le=MOST_RUNGS)

    @property
    def is_untrained(self) -> bool:
        """Whether no step was taken: of a candidate that is not trained, more time gives nothing."""
        return self.steps == 0

    @property
    def seconds_per_episode(self) -> float:
        """What one validation episode took."""
        return self.validation_seconds / self.accuracy.episodes


_GREATEST = 2**63 - 1  # that storages take
_HALF_PAIR = re.compile("[\ud800-\udfff]")  # JSON may have half of a surrogate pair, and UTF-8 may not


class TrialConfig(Record):
    """One candidate: the active parameters of a search space and their values.

    Names are dotted where they belong to one choice: `conv.width` is an option of the backbone `conv`.
    Earlier names of parameters become those of now.
    """

    values: dict[str, Scalar]

    @field_validator("values")
    @classmethod
    def _is_finite(cls, values: dict[str, Scalar]) -> dict[str, Scalar]:
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is {value}")
            if isinstance(value, int) and abs(value) > _GREATEST:
                raise ValueError(f"{name} is a number of {len(str(abs(value)))} digits")
            if isinstance(value, str) and _HALF_PAIR.search(value):
                raise ValueError(f"{name} is no text that can be written")
        return values

    @field_validator("values")
    @classmethod
    def _has_names_of_now(cls, values: dict[str, Scalar]) -> dict[str, Scalar]:
        return renamed(values)

    def options(self, prefix: str) -> dict[str, Scalar]:
        """The values under one dotted prefix, without it: `options("conv")` gives `{"width": 64}`."""
        start = prefix + "."
        return {k.removeprefix(start): v for k, v in self.values.items() if k.startswith(start)}


TrialState = Literal["complete", "pruned", "fail"]


class TrialRecord(Record):
    """One ended trial with its whole curve, as it stands in an archive."""

    number: int = Field(ge=0)
    state: TrialState
    config: TrialConfig
    curve: list[RungReport] = []
    reason: str | None = None
    facts: dict[str, Scalar] = {}

    @property
    def last(self) -> RungReport | None:
        return self.curve[-1] if self.curve else None


class Look(Record):
    """One measurement on test classes: what was measured, when, by which command, and what it showed.

    `fingerprint` is the data set's, `model` a hash of the weights. `number` is the model's place among those that
    were measured on these test classes; None where it could not be written down.
    """

    when: str
    dataset: str
    fingerprint: str
    model: str
    what: str
    episodes: EpisodeSpec
    seed: int
    mean: float = Field(ge=0, le=1)
    attack: tuple[float, int] | None = None
    number: int | None = Field(None, ge=1)


class Retrained(Record):
    """One configuration trained again with other seeds: what these models show together, on the same episodes.

    `selection` and `validation` are as in `Confirmation`.
    """

    seeds: list[int]
    selection: Accuracy
    validation: Accuracy
    test: Accuracy | None = None


class Baseline(Record):
    """What a search has to beat: a configuration that nobody trains, measured when the search starts.

    `accuracy` is on validation episodes drawn with the study's seed; `seconds` is what that took.
    """

    name: str
    config: TrialConfig
    accuracy: Accuracy
    seconds: float = Field(ge=0)


# The fact of a candidate that was not begun: seconds that features of its first episodes and a step would have taken.
FIRST_SECONDS = "first_seconds"
# The model of several trials together, which no baseline is called.
ENSEMBLE = "ensemble"


class Confirmation(Record):
    """One of the best trials, a baseline, or an ensemble of trials, measured again on episodes it was not chosen by.

    Half of the fresh episodes, `selection`, chooses the winner, and the other half, `validation`, is reported. None of
    old studies, which did both with `validation`.
    """

    trial: int | None = None
    baseline: str | None = None
    ensemble: list[int] | None = None
    validation: Accuracy
    test: Accuracy | None = None
    selection: Accuracy | None = None
    retrained: Retrained | None = None

    @model_validator(mode="after")
    def _is_of_one_model(self) -> Confirmation:
        if [self.trial, self.baseline, self.ensemble].count(None) != 2:
            raise ValueError("give a trial, a baseline or an ensemble")
        return self

    @property
    def model(self) -> int | str:
        """Number of the trial, name of the baseline, or `ENSEMBLE`."""
        if self.ensemble is not None:
            return ENSEMBLE
        return self.trial if self.trial is not None else str(self.baseline)

    @property
    def source(self) -> str:
        """Whose model it is, in words: `trial 3`, `baseline ridge-pixels`, or `ensemble`."""
        return source_of(self.model)

    @property
    def chosen_by(self) -> Accuracy:
        """What the winner is chosen by: other seeds where there are, and the episodes that are not reported."""
        if self.retrained:
            return self.retrained.selection
        return self.selection or self.validation


def source_of(model: int | str) -> str:
    """What a trial is called by its number, and others by their name: see `Confirmation.source`."""
    if model == ENSEMBLE:
        return ENSEMBLE
    return f"trial {model}" if isinstance(model, int) else f"baseline {model}"


class Right(Record):
    """Part of some images that got the right class, with its 95 % interval over images."""

    mean: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    images: int = Field(ge=0)


class DeployedTask(Record):
    """What a model shows on all classes of a data set at once, on images kept back from every class.

    Classes have from `fewest_shots` to `most_shots` labelled images. `of_trained` are images of classes whose other
    images were trained on, `of_new` of the others. `model` is a hash of the weights; `seconds` is what naming took.
    """

    model: str
    classes: int = Field(ge=2)
    fewest_shots: int = Field(ge=1)
    most_shots: int = Field(ge=1)
    of_all: Right
    of_trained: Right | None = None
    of_new: Right | None = None
    baselines: dict[str, Right] = {}
    seconds: float = Field(0.0, ge=0)


class Comparison(Record):
    """Two models on common fresh episodes: by how much the first is ahead, in accuracy, and its 95 % half width.

    `source` and `other` are as in `Confirmation`. The interval is over classes and episodes.
    """

    source: str
    other: str
    ahead: float
    half_width: float = Field(ge=0)

    @property
    def is_distinguishable(self) -> bool:
        return abs(self.ahead) > self.half_width


class StudyRecord(Record):
    """What a study searched: everything its trials have in common.

    `features` are of its data set, as in `tasks.features`; empty where nobody computed them. `past` are the archives
    it learned from: the digest of each (`past.py`), or several where an archive changed in between; None where
    nobody noted it. `search_seconds` is the time that an open search has had so far. The identities say more of the
    data than its fingerprint; older studies have none, and no `baselines`. `deployed` is of the model that was handed
    over last, where the data is an image folder. With `all_classes` the data is split by images, and its task is to
    tell all classes apart.
    """

    name: str
    dataset: str
    dataset_fingerprint: str
    dataset_identity: DataIdentity | None = None
    pretrain_dataset: str | None = None
    pretrain_identity: DataIdentity | None = None
    all_classes: bool = False
    episodes: EpisodeSpec
    space: str
    space_version: str
    budget: Budget
    seed: int
    pruner: str
    versions: dict[str, str] = {}
    hardware: dict[str, Scalar] = {}
    dataset_facts: dict[str, Scalar] = {}
    features: dict[str, float] = {}
    past: dict[str, str] | None = None
    search_seconds: float = Field(0.0, ge=0)
    date: str | None = None
    baselines: list[Baseline] = []
    confirmed: list[Confirmation] = []
    looks: list[Look] = []
    deployed: DeployedTask | None = None


def explain(error: ValidationError) -> str:
    """The first complaint of pydantic as a clause: which field, what is wrong, what came."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"]) or "record"
    message = first["msg"].removeprefix("Value error, ")
    shown = "" if first["type"] in ("missing", "value_error") else f" (got {_short(first['input'])})"
    return f"{field}: {message}{shown}"


def _short(value: object) -> str:
    """As `repr` shows it, but a line of an error message long at most, however deep or long it is."""
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxother = 200
    return shortened.repr(value)


def checked(kind: type[R], data: Mapping[str, Any], *, where: str) -> R:
    """Validate `data` as a record; raises `ConfigError` naming `where` it came from and the field."""
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error)}") from None
