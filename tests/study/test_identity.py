"""A search measures one data set: where it lies may change, what it is may not, not even for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

import autometa
from autometa import trial_attributes as attributes
from autometa.errors import DataChangedError, StopSearchError, StudyError
from autometa.events import Confirmed, Confirming, Event, RungReached, TrialEnded
from autometa.hpo import study_record
from autometa.hpo.ledger import ended
from autometa.hpo.storage import load_study, open_storage
from autometa.orchestrator.cluster import Cluster
from autometa.records import StudyRecord, parse_budget
from autometa.study import export
from autometa.trial.model_files import job_of
from autometa.trial.recipe import read_recipes, write_recipes
from autometa.trial.run import prepare
from autometa.trial.train import train
from tests.trial.test_identity import made_class

SPACE = """
name = "tiny"
[parameters.learner]
choices = ["prototypical"]
[parameters."conv.depth"]
choices = [1]
[parameters."conv.width"]
choices = [4]
[parameters.outer_lr]
low = 1e-3
high = 1e-2
log = true
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(SPACE)
    for number in range(16):
        made_class(tmp_path / "photos" / f"class{number:02d}", number)
    return tmp_path


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """One for all searches of a test: starting it takes longer than they do."""
    with Cluster(workers=1) as started:
        yield started


def searched(cluster: Cluster, dataset: str = "photos", trials: int = 4, **options: Any) -> Any:
    options = {"way": 2, "shot": 1, "query": 2, "image_size": 8, "pruner": "none", "cold": True, **options}
    budget = parse_budget("9")
    return autometa.search(
        dataset, space="tiny.toml", study="t", trials=trials, budget=budget, workers=1, cluster=cluster, **options
    )


def study() -> optuna.Study:
    return load_study("t", open_storage("sqlite:///runs/autometa.db", create=False))


def when(kind: type[Event], act: Callable[[], object], number: int = 1) -> Callable[[Event], None]:
    """Act at the n-th event of a kind."""
    left = [number]

    def on_event(event: Event) -> None:
        left[0] -= isinstance(event, kind)
        if left == [0] and isinstance(event, kind):
            act()

    return on_event


GONE = r"class 'class03' is gone \(and 1 more\)|class03/0.png \(No such file"
"""What a search says: the second where a worker had listed the folder's files, and not read them yet."""


def lose_two_classes() -> None:
    """Each in one step, while a worker may be reading the folder."""
    Path("kept").mkdir()
    for name in ("class03", "class07"):
        (Path("photos") / name).rename(Path("kept") / name)


def bring_back() -> None:
    for name in ("class03", "class07"):
        (Path("kept") / name).rename(Path("photos") / name)
    Path("kept").rmdir()


def test_a_folder_that_changes_during_a_search_ends_it_and_nothing_is_lost(folder: Path, cluster: Cluster) -> None:
    with pytest.raises(StopSearchError, match=rf"study 't' stopped: .*photos: .*({GONE})"):
        searched(cluster, on_event=when(TrialEnded, lose_two_classes))
    after_first = study().trials
    assert [t.state for t in after_first if not attributes.INTERRUPTED.of(t)].count(TrialState.FAIL) == 0
    assert [t.state for t in ended(study())] == [TrialState.COMPLETE]
    assert [t for t in after_first if t.state == TrialState.WAITING], "those that could not be begun are in the queue"
    with pytest.raises(StudyError, match=r"study 't' exists with other data in .*photos: class 'class03' is gone"):
        searched(cluster)

    bring_back()
    with pytest.raises(DataChangedError, match=rf"photos: .*({GONE})"):
        searched(cluster, on_event=when(Confirming, lose_two_classes))
    assert [t.state for t in ended(study())] == [TrialState.COMPLETE] * 4
    assert study_record.read(study()).confirmed == [], "nothing was measured on classes that were trained on"

    bring_back()
    with pytest.raises(DataChangedError, match=rf"photos: .*({GONE})"):
        searched(cluster, on_event=when(Confirmed, lose_two_classes, number=3))
    confirmed = study_record.read(study()).confirmed
    assert [c.test for c in confirmed if c.trial is not None] == [None] * 3

    bring_back()
    result = searched(cluster)
    assert result.winner is not None
    assert result.winner.test is not None


def test_a_folder_that_is_gone_ends_a_search_with_trials_trained_together(folder: Path, cluster: Cluster) -> None:
    with pytest.raises(StopSearchError, match=r"study 't' stopped: .*photos: no such folder"):
        searched(
            cluster,
            trials=6,
            vectorise=3,
            on_event=when(RungReached, lambda: Path("photos").rename("elsewhere")),
        )
    over = ended(study())
    assert [t.state for t in over] == [TrialState.COMPLETE] * 3
    assert {len(t.intermediate_values) for t in over} == {9}, "who has begun goes on with the images it has"
    result = searched(cluster, "elsewhere", trials=6, vectorise=3)
    assert [t.state for t in result.trials] == ["complete"] * 6
    assert result.winner is not None
    assert result.study.dataset == str(folder / "elsewhere")


def test_a_recipe_knows_the_data_of_its_study_wherever_it_lies(folder: Path, cluster: Cluster) -> None:
    for number in range(8):
        made_class(folder / "others" / f"other{number}", 50 + number, size=32)
    result = searched(cluster, trials=1, pretrain_dataset="others")
    about = result.study
    assert about.dataset_identity is not None
    assert about.dataset_identity.fingerprint == about.dataset_fingerprint
    assert {len(names) for names in about.dataset_identity.classes.values()} == {3, 10}
    assert about.pretrain_identity is not None
    trial = job_of(folder / "runs" / "t" / "trials" / "00000")
    assert trial.pretrain is not None
    assert trial.pretrain.identity == about.pretrain_identity

    write_recipes(folder / "t.toml", export.best_recipes(study(), 1), "toml")
    (recipe,) = read_recipes(folder / "t.toml")
    assert (recipe.dataset_identity, recipe.pretrain_identity) == (about.dataset_identity, about.pretrain_identity)
    prepared = prepare(recipe.job(folder / "m"))
    assert prepared.source.images(2)[0].shape[-2:] == (8, 8), "as the search had them"

    for name in ("photos", "others"):
        (folder / name).rename(folder / f"moved-{name}")
    record = train("t.toml", folder / "m", dataset="moved-photos", pretrain_dataset="moved-others")
    assert [r.accuracy for r in record.curve][-1].mean == pytest.approx(0.5, abs=0.5)

    older = about.model_dump(exclude={"dataset_identity", "pretrain_identity"})
    study_record.write(study(), StudyRecord.model_validate(older | {"pretrain_dataset": str(folder / "moved-others")}))
    assert export.best_recipes(study(), 1)[0].dataset_identity is None
    again = searched(cluster, "moved-photos", trials=2, pretrain_dataset="moved-others")
    assert len(again.trials) == 2
    assert again.study.dataset_identity == about.dataset_identity, "a study from before there were any gets one"
    with pytest.raises(StudyError, match=r"other data to train on in .*moved-photos: "):
        searched(cluster, "moved-photos", trials=2, pretrain_dataset="moved-photos")
