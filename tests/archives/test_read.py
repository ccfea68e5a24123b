"""Archives of both formats as past studies, and the broken ones left out with a reason."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path

import pytest

from autometa import shipped
from autometa.archives import archive, foreign, read
from autometa.data.dataset import FewShotDataset
from autometa.errors import ConfigError, StudyError
from autometa.past import PastReport
from autometa.study import warm
from autometa.tasks.features import compute
from tests.archives.example_studies import LOSSES, STUDY, TRIALS


def test_a_study_of_autometa_keeps_its_rungs_seconds_and_intervals(tmp_path: Path) -> None:
    own = STUDY.model_copy(update={"dataset": "/data/digits", "features": {"log_images": 7.5}})
    past = read.past_study(archive.write(tmp_path, own, TRIALS))
    assert (past.name, past.dataset, past.direction) == ("digits-5w1s", "digits", "maximize")
    assert past.features == {"log_images": 7.5}
    assert [(t.number, t.state) for t in past.trials] == [(1, "pruned"), (4, "fail")]
    assert past.trials[0].curve == (PastReport(2, 0.61, 3.5, 0.02),)
    assert past.trials[0].values == {"learner": "maml", "maml.first_order": True, "maml.inner_lr": 0.25}


def test_shipped_studies_can_be_learned_from() -> None:
    found = {past.name: past for past in read.past_studies(shipped.folder("studies"))}
    digits = found["digits-5w1s"]
    assert digits.rungs == 9
    best = digits.best()
    assert best is not None
    assert 0.5 < best.by_rung[9].value < 0.9
    assert digits.episodes is not None
    assert (digits.episodes.way, digits.episodes.shot) == (5, 1)


def test_shipped_studies_are_small_and_read_at_once() -> None:
    """All 27 of `benchmarks/build_archive.py` may have 3 MB and 0.3 s; a few of them may have a third of that."""
    folders = list(archive.list_archives(shipped.folder("studies")))
    part = max(len(folders), 9) / 27
    assert sum(file.stat().st_size for folder in folders for file in folder.iterdir()) <= 3e6 * part
    seconds = []
    for _ in range(3):
        started = time.process_time()
        assert len(read.past_studies(shipped.folder("studies"))) == len(folders)
        seconds.append(time.process_time() - started)
    assert min(seconds) <= 0.3 * part


def test_shipped_studies_know_what_a_later_search_compares_and_no_place() -> None:
    known = ("dataset_fingerprint", "features", "versions", "hardware", "dataset_facts", "confirmed")
    for folder in archive.list_archives(shipped.folder("studies")):
        kept = archive.read(folder)
        assert all(getattr(kept.study, name) for name in known), folder.name
        assert all(report.seconds >= 0 for trial in kept.trials for report in trial.curve)
        assert not any('"/' in file.read_text() for file in folder.iterdir()), "no place on a machine"


def test_shipped_features_are_those_of_the_data_set(digits: FewShotDataset) -> None:
    """Fails when features are computed in another way and the shipped studies still have the old ones."""
    found = {past.name: past for past in read.past_studies(shipped.folder("studies"))}
    assert dict(found["digits-5w1s"].features) == pytest.approx(compute(digits), abs=0.01)
    assert found["cifar-fs-5w5s"].features.keys() == found["digits-5w1s"].features.keys()


def test_a_broken_study_is_left_out_with_its_reason(tmp_path: Path) -> None:
    archive.write(tmp_path, STUDY, TRIALS)
    foreign.write(tmp_path, LOSSES)
    shutil.copytree(tmp_path / "losses", tmp_path / "a-broken")
    (tmp_path / "a-broken" / "trials.jsonl").write_text("{")
    reasons: list[str] = []
    found = read.past_studies(tmp_path, on_broken=reasons.append)
    assert [past.name for past in found] == ["digits-5w1s", "losses"]
    assert len(reasons) == 1
    assert "a-broken/trials.jsonl: line 1" in reasons[0]
    with pytest.warns(UserWarning, match="a-broken"):
        read.past_studies(tmp_path)
    with pytest.raises(ConfigError, match=r"^\S+a-broken/trials.jsonl: line 1"):
        read.all_past_studies(tmp_path)


def test_roots_are_texts_or_paths_and_folders_of_many_archives_or_of_one(tmp_path: Path) -> None:
    own, other = archive.write(tmp_path / "mine", STUDY, TRIALS), foreign.write(tmp_path / "theirs", LOSSES)
    assert [past.name for past in read.past_studies(str(tmp_path / "mine"))] == ["digits-5w1s"]
    assert [past.name for past in read.past_studies(own, own)] == ["digits-5w1s"]
    assert [past.name for past in read.past_studies(tmp_path / "mine", str(other))] == ["losses", "digits-5w1s"]
    assert read.past_studies(tmp_path) == []
    with pytest.raises(StudyError, match="nowhere: no such folder"):
        read.past_studies(tmp_path / "nowhere")


def test_studies_of_one_name_are_both_there(tmp_path: Path) -> None:
    for place in ("mine", "theirs"):
        foreign.write(tmp_path / place, LOSSES)
    found = read.past_studies(tmp_path / "mine", tmp_path / "theirs")
    assert [past.name for past in found] == ["losses", "losses~2"]


def test_your_own_and_shipped_studies_are_read_and_of_two_with_one_name_yours_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    foreign.write(Path("studies"), LOSSES)  # where searches wrote before
    foreign.write(Path("studies"), dataclasses.replace(LOSSES, name="older"))
    archive.write(archive.ARCHIVES, STUDY, TRIALS)
    foreign.write(archive.ARCHIVES, dataclasses.replace(LOSSES, trials=LOSSES.trials[:1]))
    found = {past.name: past for past in read.past_studies()}
    came_along = [folder.name for folder in archive.list_archives(shipped.folder("studies"))]
    assert list(found) == ["digits-5w1s", "losses", "older", *(n for n in came_along if n != "digits-5w1s")]
    assert [len(found[name].trials) for name in ("digits-5w1s", "losses")] == [len(TRIALS), 1]
    assert [past.name for past in warm.comparable("older", "f", None, pytest.fail).studies] == [
        name for name in found if name != "older"
    ]


def test_what_came_with_a_checkout_is_not_your_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shipped.folder("studies").parent)
    assert all(archive.is_shipped(folder) == (folder.parent == Path("studies")) for folder in archive.list_archives())
    assert "digits-5w1s" in {folder.name for folder in archive.list_archives() if archive.is_shipped(folder)}
    assert not set(archive.own_archives().values()) & set(archive.list_archives(Path("studies")))
