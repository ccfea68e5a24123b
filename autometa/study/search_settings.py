"""The settings of a search: the name, type, unit, meaning and default of each, written once.

The options of `autometa search`, the arguments of `autometa.search` and the plan of a search are made from this
record. It imports no heavy package, because `autometa --help` reads it.
"""

# No `from __future__ import annotations`: the command line reads the types. Types that are slow to import are quoted.

from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from autometa.errors import ConfigError
from autometa.study.documented import About, documented

if TYPE_CHECKING:
    from autometa.records import Budget
    from autometa.space.space import SearchSpace

_TRIALS = 16
EPISODES, ALL_CLASSES = TASKS = ("episodes", "all-classes")
_SEEDS = 2**32 - 1  # the largest that numpy takes, which some samplers use


def _budget(text: str) -> "Budget":
    from autometa.records import parse_budget

    return parse_budget(text)


def _seconds(text: str) -> float:
    from autometa.records import parse_seconds

    return parse_seconds(text)


@dataclass(frozen=True)
class SearchSettings:
    """The settings of one search.

    Raises:
        ConfigError: a number is out of its range.
    """

    dataset: Annotated[str, About("A name from `autometa datasets`, or a folder of images.")] = "omniglot"
    _: KW_ONLY
    space: Annotated[
        "str | Path | SearchSpace | None",
        About(
            "A name from `autometa spaces`, or a TOML file. [default: pretrained with --external, else few_shot]",
            parse=str,
        ),
    ] = None
    study: Annotated[str | None, About("Name of the study. [default: data set and task]")] = None
    task: Annotated[
        str,
        About(
            "What is measured: episodes of new classes, or all-classes, which tells all classes of the data apart "
            "on other images of them."
        ),
    ] = EPISODES
    way: Annotated[int | None, About("Classes per episode. [default: the data set's]", least=2)] = None
    shot: Annotated[int | None, About("Labelled images per class. [default: the data set's]", least=1)] = None
    query: Annotated[int | None, About("Images to classify per class. [default: the data set's]", least=1)] = None
    trials: Annotated[
        int | None,
        About(
            "Trials of the study in the end, all with one budget. [default: 16, or as many as --time-budget allows]",
            least=1,
            most=1_000_000,
        ),
    ] = None
    budget: Annotated[
        "Budget | None",
        About(
            "Meta-training per trial: steps (400) or time (60s). [default: by --trials and time, or the data set's]",
            parse=_budget,
        ),
    ] = None
    time_budget: Annotated[
        float | None,
        About(
            "Time for the whole search, with confirmation and test: 90s, 15m, 2h. Trials go on while they are good. "
            "[default: the data set's, without --trials and --budget]",
            parse=_seconds,
        ),
    ] = None
    workers: Annotated[int | None, About("Trials at once. [default: one per core, or one per GPU]", least=1)] = None
    gpus_per_trial: Annotated[
        float | None, About("GPUs per trial; fractions are allowed. [default: what there is]", least=0)
    ] = None
    address: Annotated[str | None, About("An existing Ray cluster. [default: a private one here]")] = None
    storage: Annotated[
        str | None, About("Optuna storage URL. [default: $AUTOMETA_STORAGE, else sqlite:///runs/autometa.db]")
    ] = field(default=None, repr=False)  # may hold a password
    pruner: Annotated[str, About("halving, hyperband, median, prior (learned curves; experimental) or none.")] = (
        "halving"
    )
    vectorise: Annotated[
        int, About("Trials of one architecture that a worker trains as one batched model; for GPUs.", least=1)
    ] = 1
    seed: Annotated[
        int, About("Same seed, same episodes and first proposals. Trial n trains with seed + n.", least=0, most=_SEEDS)
    ] = 0
    data_root: Annotated[
        "str | Path | None", About("Folder of downloaded archives. [default: $AUTOMETA_DATA]", parse=Path)
    ] = None
    image_size: Annotated[int | None, About("Pixels per side. [default: the data set's]", least=8)] = None
    skip_unreadable: Annotated[bool, About("Leave out files of a folder that are no images, and count them.")] = False
    pretrain_dataset: Annotated[
        str | None, About("Train on this data set's classes instead, for example cifar-10 for cifar-fs.")
    ] = None
    transductive: Annotated[bool, About("Rank transductive candidates of the space among inductive ones.")] = False
    external: Annotated[
        bool | None,
        About("Rank candidates with weights trained elsewhere among the others. [default: for image folders only]"),
    ] = None
    cold: Annotated[bool, About("Learn nothing from past studies.")] = False
    prior: Annotated[
        "str | Path | None",
        About("Learn from this archive, or folder of archives. [default: all archives of other data]", parse=Path),
    ] = None
    no_ensemble: Annotated[bool, About("Hand over a single model, also where several are better together.")] = False
    confirm_seeds: Annotated[
        int,
        About(
            "Train the best again with this many other seeds (2 or more), beyond the time budget; these decide.",
            least=0,
        ),
    ] = 0

    @property
    def is_open(self) -> bool:
        """Whether time alone ends the search: candidates have no budget of their own, and go on while they are good."""
        return self.time_budget is not None and self.trials is None and self.budget is None

    @property
    def hands_over_one(self) -> bool:
        """Whether a single model is handed over in any case."""
        return self.no_ensemble or self.confirm_seeds > 0

    @property
    def most_trials(self) -> int:
        """How many trials a search with one budget for all has in the end."""
        return _TRIALS if self.trials is None else self.trials

    def __post_init__(self) -> None:
        for name, (_, about) in documented(type(self)).items():
            about.check(name, getattr(self, name))
        if self.task not in TASKS:
            raise ConfigError(f"--task {self.task}: it may be {' or '.join(TASKS)}")
        if self.task == ALL_CLASSES and self.way is not None:
            raise ConfigError(f"--way {self.way}: --task {ALL_CLASSES} has as many ways as the data has classes")
        if self.task == ALL_CLASSES and self.pretrain_dataset:
            raise ConfigError(f"--pretrain-dataset: --task {ALL_CLASSES} trains on images of the classes themselves")
        if self.confirm_seeds == 1:
            raise ConfigError("--confirm-seeds 1: one seed has no spread; give 2 or more, or 0 for none")
