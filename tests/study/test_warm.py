"""Which archives a search learns from, and how it says so."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from pathlib import Path

import optuna
import pytest

from autometa import trial_attributes as attributes
from autometa.archives import archive
from autometa.data.dataset import FewShotDataset
from autometa.errors import StudyError
from autometa.hpo.failures import FailureAwareTPE
from autometa.past import PastReport, PastStudy, PastTrial
from autometa.records import (
    Accuracy,
    Budget,
    DataIdentity,
    EpisodeSpec,
    RungReport,
    StudyRecord,
    TrialConfig,
    TrialRecord,
)
from autometa.sampling.sampler import PriorSampler
from autometa.space.files import load_space
from autometa.space.parameters import Choice, Range
from autometa.space.space import SearchSpace
from autometa.study import warm
from autometa.tasks.features import features

SPACE = SearchSpace("s", (Choice("kind", ("a", "b")), Range("rate", 0.001, 1.0, log=True)))


def record(name: str, fingerprint: str = "f") -> StudyRecord:
    return StudyRecord(
        name=name,
        dataset="digits",
        dataset_fingerprint=fingerprint,
        episodes=EpisodeSpec(way=5, shot=1, query=15),
        space="s",
        space_version="0",
        budget=Budget(steps=10, rungs=1),
        seed=0,
        pruner="none",
    )


def trial(number: int) -> TrialRecord:
    kind, rate = "ab"[number % 2], 0.001 * 1.2**number
    accuracy = Accuracy(mean=0.5 + 0.2 * (kind == "a") + 0.005 * number, half_width=0.01, episodes=100, seed=0)
    report = RungReport(rung=1, accuracy=accuracy, steps=10, seconds=1.0)
    return TrialRecord(
        number=number, state="complete", config=TrialConfig(values={"kind": kind, "rate": rate}), curve=[report]
    )


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        archive.write(tmp_path / "studies", record(name), [trial(n) for n in range(30)])
    return tmp_path / "studies"


def ignore(reason: str) -> None:
    raise AssertionError(reason)


def names(past: warm.Past) -> list[str]:
    return [study.name for study in past.studies]


def test_a_study_does_not_learn_from_itself(archives: Path) -> None:
    assert names(warm.comparable("one", "f", archives, ignore)) == ["two"]
    assert names(warm.comparable("new", "f", archives / "one", ignore)) == ["one"]


def test_a_second_search_of_the_same_data_does_not_learn_from_the_first(
    archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.write(archives, record("elsewhere", "g"), [trial(n) for n in range(30)])
    monkeypatch.chdir(archives.parent)
    past = warm.comparable("again-seed1", "f", None, ignore)
    assert {"one", "two"} == set(past.same_data)
    assert "elsewhere" in names(past)
    assert not {"one", "two"} & set(names(past))
    line = warm.start(record("again-seed1"), SPACE, past, trials=12, trials_so_far=0).line
    assert line.endswith("; 2 of the same data are left out (one, two): --prior PATH learns from them")


@pytest.mark.parametrize(
    ("dataset", "classes", "is_same"),
    [
        ("fc100", [], True),
        ("omniglot", [], False),
        ("photos", ["owl", "cat", "dog"], True),
        ("photos", ["owl", "ant", "bee"], False),
        ("photos", [], False),
    ],
)
def test_data_of_the_same_files_or_with_many_classes_that_are_held_out_is_the_same(
    archives: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, classes: list[str], is_same: bool
) -> None:
    """What was chosen there by classes that are new here would not be measured on new ones."""
    identity = DataIdentity(fingerprint="x", image_size=32, channels=3, classes={"train": classes})
    there = record("there").model_copy(update={"dataset": dataset, "dataset_identity": identity})
    monkeypatch.chdir(archives.parent)
    archive.write(archive.ARCHIVES, there, [trial(n) for n in range(4)])
    held_out = {"owl", "cat", "dog", "hen", "pig", "cow", "fly", "rat", "bat", "eel"}
    found = warm.comparable("new", "g", None, ignore, dataset="cifar-fs", held_out=held_out)
    assert ("there" in found.same_data) is is_same
    assert ("there" in {study.name for study in found.studies}) is not is_same
    named = warm.comparable("new", "g", archive.ARCHIVES, ignore, dataset="cifar-fs", held_out=held_out)
    assert "there" in {study.name for study in named.studies}


def test_a_past_that_is_named_counts_whatever_its_data(archives: Path) -> None:
    past = warm.comparable("again-seed1", "f", archives, ignore)
    assert (names(past), past.same_data) == (["one", "two"], ())


def test_that_all_the_past_was_left_out_is_said(archives: Path) -> None:
    start = warm.start(record("new"), SPACE, warm.Past((), ("one",)), trials=12, trials_so_far=0)
    assert start.line == "prior: 1 of the same data is left out (one): --prior PATH learns from it"
    assert start.portfolio == ()


def test_the_record_notes_by_content_what_was_learned_from(archives: Path) -> None:
    past = warm.comparable("new", "f", archives, ignore)
    first = warm.noted(record("new"), past, is_new=True, warn=ignore)
    assert first.past == {study.name: study.digest for study in past.studies}
    assert len(set(first.past.values())) == 1  # the same trials under two names
    assert warm.noted(first, past, is_new=False, warn=ignore) == first
    assert warm.noted(record("new"), warm.Past(), is_new=True, warn=ignore).past == {}


def test_a_continued_study_says_that_its_past_has_changed(archives: Path) -> None:
    first = warm.noted(record("new"), warm.comparable("new", "f", archives, ignore), is_new=True, warn=ignore)
    archive.write(archives, record("one"), [trial(n) for n in range(29)])
    archive.write(archives, record("three"), [trial(n) for n in range(20)])
    shutil.rmtree(archives / "two")
    said: list[str] = []
    now = warm.comparable("new", "f", archives, ignore)
    second = warm.noted(first, now, is_new=False, warn=said.append)
    assert len(said) == 1
    assert "(new: three; changed: one; gone: two)" in said[0]
    assert first.past is not None
    digests = {study.name: study.digest for study in now.studies}
    assert second.past == {
        "one": f"{first.past['one']} then {digests['one']}",
        "two": first.past["two"],
        "three": digests["three"],
    }


def test_a_study_from_before_pasts_were_noted_is_continued_without_a_word(archives: Path) -> None:
    old = record("new")
    assert old.past is None
    assert warm.noted(old, warm.comparable("new", "f", archives, ignore), is_new=False, warn=ignore) == old


def test_a_folder_without_archives_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no archived study is there"):
        warm.comparable("new", "f", tmp_path, ignore)


def test_a_broken_archive_is_left_out_with_its_reason(archives: Path) -> None:
    (archives / "two" / "trials.jsonl").write_text("{")
    reasons: list[str] = []
    assert names(warm.comparable("new", "f", archives, reasons.append)) == ["one"]
    assert "two" in reasons[0]
    with pytest.raises(Exception, match=r"trials\.jsonl"):
        warm.comparable("new", "f", archives / "two", ignore)


def test_a_warm_start_begins_with_what_did_best_and_says_so(archives: Path) -> None:
    start = warm.start(record("new"), SPACE, warm.comparable("new", "f", archives, ignore), trials=12, trials_so_far=0)
    values, why = start.portfolio[0]
    assert values["kind"] == "a"
    assert why.startswith("portfolio 1: from ")
    assert len(start.portfolio) == 3, "the best three of both archives are the same"
    assert "2 past studies, 2 informative: " in start.line
    assert "portfolio of 3" in start.line


def test_nearly_equal_picks_of_a_portfolio_are_thinned_out_and_others_take_their_places(tmp_path: Path) -> None:
    """Each past study has the same best ones but for 1 % of the rate's range, and some of its own."""
    for place, name in enumerate(("one", "two", "three")):
        shifted = [trial(n) for n in range(30)]
        for n in (24, 26, 28):
            values = {"kind": "a", "rate": shifted[n].config.values["rate"] * 1000 ** (0.005 * place)}
            shifted[n] = shifted[n].model_copy(update={"config": TrialConfig(values=values)})
        archive.write(tmp_path / "studies", record(name), shifted)
    past = warm.comparable("new", "f", tmp_path / "studies", ignore)
    picks = [values for values, _ in warm.start(record("new"), SPACE, past, trials=12, trials_so_far=0).portfolio]
    assert len(picks) >= 3
    assert min(SPACE.distance(a, b) for a, b in itertools.combinations(picks, 2)) > 0.02


def test_a_start_that_the_portfolio_has_nearly_or_the_space_twice_is_enqueued_once() -> None:
    starts = tuple({"kind": "a", "rate": rate} for rate in (0.01, 0.0101, 0.3, 0.3, 0.302))
    space = dataclasses.replace(SPACE, start=starts)
    pick = {"kind": "a", "rate": 0.01 * (1 + 1e-15)}
    start = warm.Start(optuna.samplers.RandomSampler(), [(pick, "portfolio 1: from x")])
    assert [why for _, why in start.first(space)] == [f"start {number} of s" for number in (1, 2, 3, 5)]
    cold = warm.Start(optuna.samplers.RandomSampler())
    assert [why for _, why in cold.first(space)] == [f"start {number} of s" for number in (1, 2, 3, 5)]


def test_after_the_starts_that_are_believed_in_picks_of_the_past_and_other_starts_are_tried_in_turn() -> None:
    space = dataclasses.replace(SPACE, start=tuple({"kind": "a", "rate": rate} for rate in (0.01, 0.1, 0.3, 0.9)))
    picks = [({"kind": "b", "rate": 0.5}, "pick 1"), ({"kind": "a", "rate": 0.1}, "pick 2")]
    start = warm.Start(optuna.samplers.RandomSampler(), picks)
    assert [why for _, why in start.first(space)] == [
        "start 1 of s",
        "start 2 of s",
        "pick 1",
        "start 3 of s",
        "start 4 of s",
    ]


def test_where_some_studies_have_external_candidates_those_without_are_believed_less() -> None:
    """The best without weights from elsewhere is no pick for a search that may have such."""
    learner = Choice("learner", ("frozen", "ridge"))
    space = SearchSpace("s", (learner, SPACE["rate"]))

    def past(name: str, good: str) -> PastStudy:
        values = [{"learner": ("frozen", "ridge")[n % 2], "rate": 1000 ** (n / 40 - 1)} for n in range(40)]
        kept = [one for one in values if name.startswith("external") or one["learner"] == "ridge"]
        trials = [
            PastTrial(one, (PastReport(1, 0.5 + 0.3 * (one["learner"] == good) + 0.1 * one["rate"]),), number=n)
            for n, one in enumerate(kept)
        ]
        return PastStudy(name, tuple(trials))

    both = warm.Past([past("external", "frozen"), past("without", "ridge")])
    alike = warm.Past([past("external", "frozen"), past("external too", "frozen")])
    for studies, believed in ((both, True), (alike, False)):
        start = warm.start(record("new"), space, studies, trials=12, trials_so_far=0)
        assert isinstance(start.sampler, PriorSampler)
        weights = start.sampler.weights
        assert (max(weights.values()) > 4 * min(weights.values())) is believed, weights


@pytest.mark.parametrize("is_external", [True, False])
def test_past_studies_without_external_candidates_say_nothing_to_a_search_of_such(is_external: bool) -> None:
    """A network trained from nothing would take the turn of a pretrained one."""
    space = load_space("pretrained" if is_external else "few_shot")
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=5))
    own = load_space("few_shot")
    tried = [own.suggest(drawn.ask()) for _ in range(60)]
    trials = tuple(
        PastTrial(values, (PastReport(1, 0.3 + 0.4 * (values["learner"] == "ridge")),), number=number)
        for number, values in enumerate(tried)
    )
    start = warm.start(record("new"), space, warm.Past([PastStudy("p", trials)]), trials=16, trials_so_far=0)
    assert isinstance(start.sampler, PriorSampler) is bool(start.portfolio) is not is_external
    assert ("none of 1 past study had weights from elsewhere; cold start" in start.line) is is_external


def test_the_default_space_begins_with_nothing_twice(digits: FewShotDataset) -> None:
    """The past search began with the space's own starts too, and its best are two of them, as in the shipped one."""
    space = load_space("few_shot")
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=5))
    tried = [*space.start[:2], *(space.suggest(drawn.ask()) for _ in range(90))]
    good = [0.9, 0.89, *(0.8 if values["learner"] == "prototypical" else 0.3 for values in tried[2:])]
    past = PastStudy(
        "p",
        tuple(
            PastTrial(values, (PastReport(1, accuracy),), "complete", number)
            for number, (values, accuracy) in enumerate(zip(tried, good, strict=True))
        ),
    )
    about = record("digits-5w1s").model_copy(update={"features": features(digits)})
    start = warm.start(about, space, warm.Past([past]), trials=16, trials_so_far=0)
    picks = [values for values, _ in start.portfolio]
    assert any(space.distance(pick, own) <= 0.02 for pick in picks for own in space.start), "or nothing is at stake"
    first = [values for values, _ in start.first(space)]
    assert len(first) > len(space.start)
    assert min(space.distance(a, b) for a, b in itertools.combinations(first, 2)) > 0.02


def test_what_a_search_would_refuse_is_not_learned_from() -> None:
    """Trials with weights from elsewhere, or transductive ones, would be read as the nearest that the space has."""
    values = [
        {"backbone": "timm", "timm.model": "resnet18"},
        {"backbone": "timm", "timm.weights": "none"},
        {"backbone": "conv", "conv.norm": "transductive"},
        {"backbone": "conv", "conv.norm": "running"},
    ]
    trials = [PastTrial(v, (PastReport(1, 0.1 * n),), "complete", n) for n, v in enumerate(values)]
    study = PastStudy("p", tuple(trials))
    for transductive, external, numbers in (
        (False, False, [1, 3]),
        (True, False, [1, 2, 3]),
        (False, True, [0, 1, 3]),
        (True, True, [0, 1, 2, 3]),
    ):
        (found,) = warm.permitted(warm.Past([study]), transductive=transductive, external=external).studies
        assert [trial.number for trial in found.trials] == numbers
    # Where a refused one was the best, the others were stopped early beside it.
    for best, kept in ((1, 1), (2, 0), (3, 1)):
        won = dataclasses.replace(trials[best], curve=(PastReport(1, 0.9),))
        study = PastStudy("p", (*trials[:best], won, *trials[best + 1 :]))
        assert len(warm.permitted(warm.Past([study]), transductive=False, external=False).studies) == kept


def test_an_external_trials_success_is_no_pick_of_a_search_without_external(tmp_path: Path) -> None:
    """Of a past space without `timm.weights`, whose default is the hub, in a space whose only weights are none."""
    past_trials = [
        trial(n).model_copy(update={"config": TrialConfig(values={"backbone": ("timm", "conv")[n % 2], "rate": rate})})
        for n, rate in enumerate(0.001 * 1.2**n for n in range(30))
    ]
    archive.write(tmp_path / "studies", record("past"), past_trials)
    weights = Choice("timm.weights", ("none",), when={"backbone": ("timm",)})
    space = SearchSpace("s", (Choice("backbone", ("conv", "timm")), weights, SPACE["rate"]))
    past = warm.comparable("new", "f", tmp_path / "studies", ignore)
    for external, picked in ((True, ["timm"]), (False, [])):
        chosen = warm.permitted(past, transductive=False, external=external)
        start = warm.start(record("new"), space, chosen, trials=12, trials_so_far=0)
        assert [values["backbone"] for values, _ in start.portfolio[:1]] == picked


def test_without_past_studies_the_start_is_cold_and_says_nothing() -> None:
    start = warm.start(record("new"), SPACE, warm.Past(), trials=12, trials_so_far=0)
    assert (start.portfolio, start.line) == ((), "")
    assert isinstance(start.sampler, FailureAwareTPE)


def test_archives_that_say_nothing_are_named_as_such(archives: Path) -> None:
    other = SearchSpace("other", (Choice("colour", ("red", "blue")),))
    start = warm.start(record("new"), other, warm.comparable("new", "f", archives, ignore), trials=12, trials_so_far=0)
    assert start.line == "prior: none of 2 past studies tells good from bad in this space; cold start"
    assert start.portfolio == ()


def test_worth_counts_origins() -> None:
    study = optuna.create_study(direction="maximize")
    for origin, value in (
        ("portfolio 1: from x", 0.5),
        ("portfolio 2: from y", 0.7),
        ("prior: x 0.9", 0.6),
        (None, None),
    ):
        noted = attributes.ORIGIN.entry(origin) if origin else {}
        state = optuna.trial.TrialState.COMPLETE if value else optuna.trial.TrialState.PRUNED
        study.add_trial(optuna.create_trial(value=value, state=state, user_attrs=noted))
    assert warm.worth(study) == {
        "portfolio": warm.Worth(2, 0.7),
        "prior": warm.Worth(1, 0.6),
        "cold": warm.Worth(1, None),
    }
