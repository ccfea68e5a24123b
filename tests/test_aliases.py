"""Everything that was written before parameters were renamed is read under the names of now, door by door."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from autometa import trial_attributes as attributes
from autometa.aliases import ALIASES, FIRST, renamed
from autometa.archives import archive, foreign
from autometa.archives.read import past_studies
from autometa.errors import ConfigError, SpaceError
from autometa.hpo import study_record
from autometa.hpo.capped_history import CappedHistory
from autometa.hpo.earlier_names import WithNamesOfNow
from autometa.hpo.ledger import Ledger, ended_records
from autometa.hpo.pruning import make_sampler
from autometa.hpo.single_writer import SingleWriter
from autometa.hpo.storage import open_storage
from autometa.hpo.tried import Tried
from autometa.past import PastReport, PastStudy, PastTrial
from autometa.records import Budget, EpisodeSpec, TrialConfig
from autometa.space.files import load_space
from autometa.space.parameters import Choice, Range
from autometa.space.space import SearchSpace
from autometa.study import warm
from autometa.study.export import best_recipes
from autometa.study.planning import make_plan
from autometa.study.records_of_plan import existing_record, new_record
from autometa.study.search_settings import SearchSettings
from autometa.trial.build import candidate, common_names, dotted_names, tables
from autometa.trial.job import DatasetRef, Job
from autometa.trial.model_files import job_of
from autometa.trial.recipe import read_recipes
from autometa.trial.run import run
from tests.archives.example_studies import STUDY, TRIALS

OLD_SPACE = """
name = "mine"
[parameters.learner]
choices = ["maml", "prototypical"]
[parameters."maml.inner_rate"]
choices = [0.1, 0.2]
when = { learner = "maml" }
[parameters."maml.inner_steps"]
choices = [1]
when = { "maml.inner_rate" = 0.1 }
[parameters.outer_rate]
low = 1e-3
high = 1e-1
log = true
[[start]]
learner = "maml"
"maml.inner_rate" = 0.2
outer_rate = 0.01
"""
# What an autometa before the renaming wrote into a study of this space.
OLD_VERSION = "85c7d9bd"


def old_space(folder: Path) -> Path:
    file = folder / "mine.toml"
    file.write_text(OLD_SPACE)
    return file


def test_every_name_of_the_table_is_of_an_option_and_no_earlier_name_is() -> None:
    kinds = [(name, kind) for table in tables().values() for name, kind in table.items()]
    known = common_names().union(*(dotted_names(name, kind) for name, kind in kinds))
    assert set(ALIASES.values()) <= known
    assert not ALIASES.keys() & known
    assert len(FIRST) == len(ALIASES)


def test_order_stays_and_both_names_of_one_parameter_are_refused() -> None:
    assert list(renamed({"b": 1, "outer_rate": 2, "a": 3}).items()) == [("b", 1), ("outer_lr", 2), ("a", 3)]
    with pytest.raises(ValueError, match="outer_rate and outer_lr are two names of one parameter"):
        renamed({"outer_lr": 1, "outer_rate": 1})


def test_a_space_file(tmp_path: Path) -> None:
    space = load_space(old_space(tmp_path))
    assert [p.name for p in space] == ["learner", "maml.inner_lr", "maml.inner_steps", "outer_lr"]
    assert space["maml.inner_steps"].when == {"maml.inner_lr": (0.1,)}
    assert space.start == ({"learner": "maml", "maml.inner_lr": 0.2, "outer_lr": 0.01},)
    assert space.version == OLD_VERSION


def test_a_space_file_that_extends_one_under_new_names(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('name = "own"\nextends = "few_shot"\n[parameters.outer_rate]\nlow = 0.25\nhigh = 0.5\n')
    few_shot, own = load_space("few_shot"), load_space(file)
    assert [p.name for p in own] == [p.name for p in few_shot]
    assert own["outer_lr"].allowed() == "0.25 … 0.5"
    file.write_text(OLD_SPACE + "\n[parameters.outer_lr]\nchoices = [1.0]\n")
    with pytest.raises(SpaceError, match=r"own\.toml: outer_rate and outer_lr are two names"):
        load_space(file)


def test_versions_of_shipped_spaces_are_those_of_studies_before() -> None:
    assert {name: load_space(name).version for name in ("few_shot", "architecture")} == {
        "few_shot": "22faa8cc",
        "architecture": "a695420b",
    }


def test_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(
        'format = "autometa-recipe/1"\n[[recipe]]\ndataset = "digits"\nepisodes = {}\nbudget = { steps = 3 }\n'
        '[recipe.config]\nlearner = "maml"\nouter_rate = 0.002\n[recipe.config.maml]\ninner_rate = 0.25\n'
    )
    recipe = read_recipes(file)[0]
    assert recipe.config == {"learner": "maml", "outer_lr": 0.002, "maml.inner_lr": 0.25}
    found = candidate(TrialConfig(values=recipe.config), where="recipe")
    assert (found.training.outer_lr, found.learner.options) == (0.002, {"inner_lr": 0.25})
    file.write_text(file.read_text().replace("outer_rate", "outer_lr = 0.1\nouter_rate"))
    with pytest.raises(ConfigError, match=r"recipe\.toml: recipe 1: config: outer_rate and outer_lr"):
        read_recipes(file)


def in_old_names(file: Path) -> None:
    text = file.read_text()
    for now, before in FIRST.items():
        text = text.replace(json.dumps(now), json.dumps(before))
    assert text != file.read_text()
    file.write_text(text)


def test_archives_of_both_formats_and_their_digests(tmp_path: Path) -> None:
    values = {"learner": "maml", "maml.inner_lr": 0.25, "outer_lr": 0.1}
    own = [TRIALS[0].model_copy(update={"config": TrialConfig(values=values)})]
    in_old_names(archive.write(tmp_path, STUDY, own) / "trials.jsonl")
    ranges = {"outer_lr": optuna.distributions.distribution_to_json(FloatDistribution(0.1, 0.5))}
    other = PastStudy("theirs", (PastTrial(values, (PastReport(1, 3.0),)),), ranges=ranges)
    folder = foreign.write(tmp_path, other)
    for file in (folder / "trials.jsonl", folder / "study.toml"):
        file.write_text(file.read_text().replace("outer_lr", "outer_rate").replace("inner_lr", "inner_rate"))
    read = {past.name: past for past in past_studies(tmp_path)}
    assert [past.trials[0].values for past in read.values()] == [values, values]
    assert set(read["theirs"].ranges) == {"outer_lr"}
    # A study notes what it learned from, and a renaming is no change of that.
    before = PastStudy(
        "theirs", (PastTrial(renamed(values, FIRST), (PastReport(1, 3.0),)),), ranges=renamed(ranges, FIRST)
    )
    record = STUDY.model_copy(update={"past": {"theirs": before.digest}})
    past = warm.Past([read["theirs"]])
    assert warm.noted(record, past, is_new=False, warn=pytest.fail) == record
    assert warm.noted(STUDY, past, is_new=True, warn=pytest.fail).past == record.past


def test_shipped_archives_are_read_under_the_names_of_now() -> None:
    names = {name for past in past_studies() for trial in past.trials for name in trial.values}
    assert "outer_lr" in names
    assert not names & ALIASES.keys()


def test_a_checkpoint(tmp_path: Path) -> None:
    values = {"learner": "maml", "maml.inner_lr": 0.25, "outer_lr": 0.1, "conv.width": 4, "conv.depth": 1}
    episodes = EpisodeSpec(way=2, shot=1, query=2)
    asked = Job(
        config=TrialConfig(values=values),
        dataset=DatasetRef(name="digits"),
        episodes=episodes,
        budget=Budget(steps=2, rungs=1),
        seed=0,
        folder=str(tmp_path),
        validation_episodes=4,
    )
    first = run(asked)
    in_old_names(tmp_path / "checkpoint.json")
    assert job_of(tmp_path).config.values == values
    assert run(asked).curve == first.curve, "and it is continued"


def old_values(number: int) -> dict[str, Any]:
    return {"learner": "maml", "maml.inner_rate": (0.1, 0.2)[number % 2], "outer_rate": 0.001 * 1.3**number}


def old_study(url: str) -> optuna.Study:
    """Twelve trials over, one in the queue, under the names and with the settings of before."""
    made = optuna.create_study(study_name="t", storage=url, direction="maximize")
    distributions: dict[str, Any] = {
        "learner": CategoricalDistribution(["maml", "prototypical"]),
        "maml.inner_rate": CategoricalDistribution([0.1, 0.2]),
        "outer_rate": FloatDistribution(1e-3, 1e-1, log=True),
    }
    for number in range(12):
        score = {"mean": 0.5 + number / 100, "half_width": 0.1, "episodes": 10, "seed": 0}
        curve = [{"rung": 1, "accuracy": score, "steps": 3, "seconds": 1.0}]
        made.add_trial(
            create_trial(
                params=old_values(number),
                distributions=distributions,
                value=score["mean"],
                intermediate_values={1: score["mean"]},
                user_attrs=attributes.CURVE.entry(curve) | attributes.SEED.entry(number),
            )
        )
    made.enqueue_trial(old_values(13))
    return made


def opened(url: str) -> tuple[optuna.Study, SingleWriter]:
    writer = SingleWriter(WithNamesOfNow(open_storage(url)))
    return optuna.load_study(study_name="t", storage=writer), writer


def test_a_study_in_a_storage_is_the_same_and_goes_on_under_the_names_it_has(tmp_path: Path) -> None:
    url, space = f"sqlite:///{tmp_path}/t.db", load_space(old_space(tmp_path))
    old_study(url)
    study, writer = opened(url)
    tried = Tried(study, space)
    assert all(renamed(old_values(number)) in tried for number in (*range(12), 13)), "never tried twice"
    assert renamed(old_values(12)) not in tried
    study.sampler = CappedHistory(make_sampler(0, 0), writer)
    ledger = Ledger(study, space, storage=writer, rungs=1, seed=0, folder=tmp_path)
    queued, proposed = ledger.ask(), ledger.ask()
    assert queued.values == renamed(old_values(13)), "from the queue"
    assert proposed.values.keys() <= {"learner", "maml.inner_lr", "maml.inner_steps", "outer_lr"}
    as_stored = optuna.load_study(study_name="t", storage=url).trials
    assert not {name for trial in as_stored for name in trial.params} & set(ALIASES.values()), "one name each"
    assert as_stored[12].params == old_values(13)
    assert as_stored[12].state == TrialState.RUNNING


def test_a_seed_proposes_the_same_in_a_study_of_before_and_under_the_names_of_now(tmp_path: Path) -> None:
    space, urls = load_space(old_space(tmp_path)), [f"sqlite:///{tmp_path}/{name}.db" for name in ("before", "now")]
    old_study(urls[0])
    source, _ = opened(urls[0])
    optuna.create_study(study_name="t", storage=urls[1], direction="maximize").add_trials(source.get_trials())
    found = []
    for url in urls:
        study, writer = opened(url)
        study.sampler = CappedHistory(make_sampler(0, 12), writer)
        ledger = Ledger(study, space, storage=writer, rungs=1, seed=0, folder=tmp_path)
        found.append([ledger.ask().values for _ in range(4)])
    assert found[0] == found[1]


def test_a_study_in_a_storage_is_listed_and_exported_under_the_names_of_now(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    made = old_study(url)
    study_record.write(made, STUDY)
    assert [record.config.values for record in ended_records(made)] == [renamed(old_values(n)) for n in range(12)]
    assert best_recipes(made, 1)[0].config == renamed(old_values(1)), "the one that was confirmed"


@pytest.mark.parametrize("as_file", [True, False])
def test_a_search_continues_a_study_with_the_space_of_before(tmp_path: Path, as_file: bool) -> None:
    file, url = old_space(tmp_path), f"sqlite:///{tmp_path}/t.db"
    parameters = (
        Choice("learner", ("maml", "prototypical")),
        Choice("maml.inner_rate", (0.1, 0.2), when={"learner": ("maml",)}),
        Choice("maml.inner_steps", (1,), when={"maml.inner_rate": (0.1,)}),
        Range("outer_rate", 1e-3, 1e-1, log=True),
    )
    space = str(file) if as_file else SearchSpace("mine", parameters)

    def plan() -> Any:
        asked = SearchSettings("digits", study="t", space=space, storage=url, budget=Budget(steps=3))
        return make_plan(asked, runs=tmp_path / "runs", validation_episodes=4)

    made = plan()
    assert [p.name for p in made.space] == ["learner", "maml.inner_lr", "maml.inner_steps", "outer_lr"]
    record = new_record(made, Budget(steps=3))
    assert record.space_version == OLD_VERSION
    study_record.write(old_study(url), record)
    assert existing_record(plan()) == record, "and no complaint of another space"
