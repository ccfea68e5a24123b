"""What a search will do, checked, and where its files lie. `planning.py` makes it; it runs nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from optuna.storages import BaseStorage

from autometa.data import catalog
from autometa.data.dataset import FewShotDataset
from autometa.errors import StopSearchError
from autometa.hpo.ledger import Asked
from autometa.records import Budget, EpisodeSpec, Scalar, TrialConfig
from autometa.space.space import SearchSpace
from autometa.study.search_settings import SearchSettings
from autometa.trial.abilities import external_backbones
from autometa.trial.job import DatasetRef, Job

# Where all classes are told apart: episodes as a part of the usual number.
_PART_OF_EPISODES = 0.5


def part_of_episodes(ref: DatasetRef) -> float:
    """As of a plan with these data."""
    return _PART_OF_EPISODES if ref.all_classes else 1.0


@dataclass(frozen=True)
class Plan:
    """Everything checked, nothing written."""

    dataset: FewShotDataset
    ref: DatasetRef
    pretrain: DatasetRef | None
    settings: SearchSettings
    space: SearchSpace
    episodes: EpisodeSpec
    deadline: float | None
    url: str = field(repr=False)  # may hold a password
    storage: BaseStorage
    runs: Path
    name: str
    validation_episodes: int
    pretrain_data: FewShotDataset | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know about the images, and about weights from elsewhere."""
        of_images = self.dataset.notes + (self.pretrain_data.notes if self.pretrain_data else ())
        names = " | ".join(map(str, external_backbones(self.space)))
        if not names or not catalog.is_like_imagenet(self.ref.name):
            return of_images
        seen = (
            f"{self.dataset.name}: weights of {names} were trained on ImageNet, which has classes like its test classes"
        )
        return (*of_images, f"{seen}: their accuracy is not that of new classes")

    @property
    def fingerprint(self) -> str:
        """Of the data as it lies there, however it is split for the task."""
        assert self.ref.identity is not None
        return self.ref.identity.fingerprint

    @property
    def task(self) -> str:
        """The task for people: `5w1s`, or `all 40 classes, 20 shots`."""
        spec = self.episodes
        return f"all {spec.way} classes, {spec.shot} shots" if self.ref.all_classes else str(spec)

    @property
    def part_of_episodes(self) -> float:
        """How many episodes are measured, of the usual number: one of all classes says more, and takes longer."""
        return part_of_episodes(self.ref)

    @property
    def measures_all_classes(self) -> bool:
        """Whether the model that is handed over is measured on all classes of the data at once."""
        return self.ref.all_classes or self.ref.keep_back is not None

    @property
    def folder(self) -> Path:
        return self.runs / self.name

    @property
    def model_folder(self) -> Path:
        """Where the winner's model is handed over."""
        return self.folder / "model"

    @property
    def baselines_folder(self) -> Path:
        return (self.folder / "baselines").resolve()

    @property
    def ensemble_folder(self) -> Path:
        """Where the model of several trials together is."""
        return (self.folder / "ensemble").resolve()

    @property
    def trials_folder(self) -> Path:
        return (self.folder / "trials").resolve()

    def job(self, values: dict[str, Scalar], seed: int, folder: Path, *, budget: Budget, use_gpu: bool) -> Job:
        """The job of training these values into a folder."""
        return Job(
            config=TrialConfig(values=values),
            dataset=self.ref,
            pretrain=self.pretrain,
            episodes=self.episodes,
            budget=budget,
            seed=seed,
            folder=str(folder),
            validation_episodes=self.validation_episodes,
            validation_seed=self.settings.seed,
            use_gpu=use_gpu,
        )

    def job_of(self, asked: Asked, *, budget: Budget, use_gpu: bool) -> Job:
        """The job of a trial, in its folder."""
        return self.job(asked.values, asked.seed, self.trials_folder / asked.folder, budget=budget, use_gpu=use_gpu)

    def stopped(self, error: StopSearchError) -> StopSearchError:
        """The error of the whole search, in place of the one that a worker met."""
        return StopSearchError(
            f"study {self.name!r} stopped: {error}; nothing is lost: when that is put right, the same command continues"
        )
