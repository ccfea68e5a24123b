"""`autometa studies`: past studies come in from real storages, archives and tables, and go out again."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from autometa import shipped
from autometa.archives import archive, foreign
from autometa.archives.read import past_studies, past_study
from autometa.home import OWN_STUDIES
from autometa.hpo import study_record
from autometa.hpo.ledger import Ledger
from autometa.hpo.single_writer import SingleWriter
from autometa.hpo.storage import open_storage
from autometa.records import TrialConfig, TrialRecord
from tests.archives.example_studies import LOSSES, STUDY, TRIALS
from tests.cli.test_cli import run
from tests.hpo.test_ledger import SPACE, record, report

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def autometa(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: run(capsys, monkeypatch, *arguments)


def foreign_storage(url: str) -> None:
    """Two plain studies, one of two objectives and one without trials, as Optuna alone writes them."""
    storage = open_storage(url) if url.startswith("journal:") else optuna.storages.RDBStorage(url)
    rate = {"rate": FloatDistribution(0.5, 3.0)}

    def trial(state: TrialState, value: float | None, steps: dict[int, float]) -> optuna.trial.FrozenTrial:
        return create_trial(
            state=state, value=value, params={"rate": 2.5}, distributions=rate, intermediate_values=steps
        )

    losses = optuna.create_study(study_name="losses / 1", storage=storage, direction="minimize")
    losses.add_trial(trial(TrialState.COMPLETE, 7.5, {0: 9.5, 10: 8.5}))
    losses.add_trial(trial(TrialState.PRUNED, None, {0: 11.5}))
    losses.add_trial(trial(TrialState.FAIL, None, {}))
    optuna.create_study(study_name="plain", storage=storage, direction="maximize").add_trial(
        trial(TrialState.COMPLETE, -3.5, {})
    )
    optuna.create_study(study_name="pareto", storage=storage, directions=["minimize", "maximize"])
    optuna.create_study(study_name="new", storage=storage)
    if isinstance(storage, optuna.storages.RDBStorage):
        storage.remove_session()
        storage.engine.dispose()  # so that all of it is in the file


def interrupted_search(url: str, name: str = "cut-short") -> list[TrialRecord]:
    """A study as a search leaves it in which one trial ended, one was pruned and one still runs."""
    storage = SingleWriter(open_storage(url))
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    study_record.write(study, STUDY.model_copy(update={"name": name, "confirmed": []}))
    ledger = Ledger(study, SPACE, storage=storage, rungs=2, seed=6, folder=Path("runs") / name / "trials")
    study.enqueue_trial({"learner": "a", "a.rate": 0.75})
    study.enqueue_trial({"learner": "b"})
    first, second, third = ledger.ask(), ledger.ask(), ledger.ask()
    for rung in (1, 2):
        ledger.report(first.number, report(rung, 0.25 * rung))
    ledger.end(first.number, record=record(first.number))
    ledger.report(second.number, report(1, 0.375))
    ledger._live[second.number].pruned = True
    ledger.end(second.number, record=None)
    ledger.report(third.number, report(1, 0.5))
    return [
        TrialRecord(
            number=0,
            state="complete",
            config={"values": {"learner": "a", "a.rate": 0.75}},
            curve=[report(1, 0.25), report(2, 0.5)],
            facts={"parameters": 12},
        ),
        TrialRecord(number=1, state="pruned", config={"values": {"learner": "b"}}, curve=[report(1, 0.375)]),
    ]


@pytest.mark.parametrize("source", ["sqlite:///theirs.db", "theirs.db", "journal:theirs.log", "theirs.log"])
def test_a_storage_comes_in_and_stays_as_it_was(autometa: Command, tmp_path: Path, source: str) -> None:
    file = tmp_path / ("theirs.db" if ".db" in source else "theirs.log")
    foreign_storage(f"sqlite:///{file}" if ".db" in source else f"journal:{file}")
    before = file.read_bytes()
    code, out, err = autometa("studies", "import", source)
    assert (code, out) == (0, "imported 2 studies with 4 trials in runs/studies\nnext: autometa studies\n")
    assert "left out: study 'pareto' has 2 objectives" in err
    assert "left out: study 'new' has no ended trial" in err
    assert file.read_bytes() == before
    assert {p.name for p in tmp_path.iterdir()} == {"runs", file.name}
    losses, plain = past_studies(OWN_STUDIES)
    assert (losses.name, losses.direction, plain.direction) == ("losses-1", "minimize", "maximize")
    assert "study 'losses / 1' of" in losses.origin
    shown = [(t.state, {r.rung: r.value for r in t.curve}) for t in losses.trials]
    assert shown == [("complete", {1: 9.5, 2: 7.5}), ("pruned", {1: 11.5}), ("fail", {})]
    assert list(losses.ranges) == ["rate"]
    assert plain.trials[0].by_rung[1].value == -3.5


def test_one_study_of_a_storage_by_name_and_what_is_wrong_with_others(autometa: Command, tmp_path: Path) -> None:
    foreign_storage("sqlite:///theirs.db")
    code, out, _ = autometa("studies", "import", "theirs.db", "--study", "plain", "--name", "../up", "--to", "kept")
    assert code == 0
    assert out == "imported up: 1 trial (1 complete) in kept/up\nnext: autometa studies show kept/up\n"
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["up"]
    for name, says in (("pareto", "2 objectives"), ("new", "no ended trial"), ("plane", "did you mean 'plain'")):
        code, _, err = autometa("studies", "import", "theirs.db", "--study", name)
        assert code == 2
        assert says in err
    assert not (tmp_path / OWN_STUDIES).exists()


def test_an_interrupted_search_is_archived_as_far_as_it_came(autometa: Command, tmp_path: Path) -> None:
    trials = interrupted_search("sqlite:///runs/autometa.db")
    code, out, _ = autometa("studies", "archive", "cut-short")
    assert code == 0
    assert out == (
        "archived cut-short: 2 trials (1 complete, 1 pruned) in runs/studies/cut-short\n"
        "next: autometa studies show cut-short\n"
    )
    kept = archive.read(tmp_path / OWN_STUDIES / "cut-short")
    assert kept.study == STUDY.model_copy(update={"name": "cut-short", "confirmed": []})
    assert list(kept.trials) == trials
    code, _, err = autometa("studies", "archive", "cut-short")
    assert code == 2
    assert "runs/studies/cut-short exists already; add --replace" in err
    code, _, _ = autometa("studies", "archive", "cut-short", "--replace")
    assert code == 0
    code, _, err = autometa("studies", "archive", "cut-shirt")
    assert "did you mean 'cut-short'" in err


def test_a_study_of_autometa_comes_in_from_a_storage_as_its_own_archive(autometa: Command, tmp_path: Path) -> None:
    trials = interrupted_search("journal:their.log")
    code, _, _ = autometa("studies", "import", "journal:their.log")
    assert code == 0
    assert list(archive.read(tmp_path / OWN_STUDIES / "cut-short").trials) == trials
    code, _, err = autometa("studies", "archive", "cut-short")
    assert "no studies there" in err
    foreign_storage("sqlite:///theirs.db")
    code, _, err = autometa("studies", "archive", "plain", "--storage", "sqlite:///theirs.db")
    assert code == 2
    assert "autometa studies import sqlite:///theirs.db --study plain" in err


def test_settings_that_someone_changed_by_hand_are_refused(autometa: Command, tmp_path: Path) -> None:
    interrupted_search("sqlite:///a.db")
    study = optuna.load_study(study_name="cut-short", storage="sqlite:///a.db")
    with sqlite3.connect("a.db") as database:
        database.execute("UPDATE trial_user_attributes SET value_json = '[{}]' WHERE key = 'curve'")
    code, _, err = autometa("studies", "import", "a.db")
    assert code == 2
    assert "study 'cut-short': trial 0 is not as autometa wrote it" in err
    study.set_user_attr("autometa", "{")
    code, _, err = autometa("studies", "import", "a.db")
    assert code == 2
    assert "its settings are not JSON" in err
    assert not (tmp_path / OWN_STUDIES).exists()


def test_archives_of_another_project_come_in_as_they_are(autometa: Command, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    foreign.write(theirs, LOSSES)
    shutil.copytree(shipped.folder("studies") / "digits-5w1s", theirs / "digits-5w1s")
    code, out, _ = autometa("studies", "import", "theirs")
    assert (code, out.splitlines()[0]) == (0, "imported 2 studies with 19 trials in runs/studies")
    came, was = archive.read(tmp_path / OWN_STUDIES / "digits-5w1s"), archive.read(theirs / "digits-5w1s")
    assert (came.study, came.trials) == (was.study, was.trials)
    assert repr(past_study(tmp_path / OWN_STUDIES / "losses").trials) == repr(LOSSES.trials)
    code, out, _ = autometa("studies", "import", "theirs/losses", "--name", "more losses")
    assert (code, out.splitlines()[1]) == (0, "next: autometa studies show more-losses")
    code, _, err = autometa("studies", "import", "theirs")
    assert code == 2
    assert "runs/studies/digits-5w1s and 1 more exist already; add --replace" in err
    assert autometa("studies", "import", "theirs", "--replace")[0] == 0


def test_nothing_comes_in_when_one_of_several_is_broken(autometa: Command, tmp_path: Path) -> None:
    foreign.write(tmp_path / "theirs", LOSSES)
    shutil.copytree(tmp_path / "theirs" / "losses", tmp_path / "theirs" / "z-broken")
    (tmp_path / "theirs" / "z-broken" / "trials.jsonl").write_text('{"number": 1}\n')
    code, _, err = autometa("studies", "import", "theirs")
    assert code == 2
    assert "theirs/z-broken/trials.jsonl: line 1: state" in err
    assert not (tmp_path / OWN_STUDIES).exists()
    assert autometa("studies", "import", "theirs", "--study", "losses")[0] == 0


TABLE = "fold,loss,epoch,rate,kind,junk\nA/1,9.5,1,0.5,,x\nA/1,8.5,2,0.5,,y\nB,7.5,1,0.25,big,z\n"
BY_LOSS = ("--value", "loss", "--direction", "minimize", "--ignore", "junk")


def test_a_table_comes_in_as_a_study_for_each_task(autometa: Command, tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text(TABLE)
    columns = (*BY_LOSS, "--rung", "epoch", "--task", "fold", "--rename", "rate=learning_rate")
    code, out, _ = autometa("studies", "import", "runs.csv", *columns)
    assert (code, out) == (0, "imported 2 studies with 2 trials in runs/studies\nnext: autometa studies\n")
    first, second = past_studies(OWN_STUDIES)
    assert (first.name, first.dataset, first.direction, first.origin) == ("runs-A-1", "A/1", "minimize", "runs.csv")
    assert {r.rung: r.value for r in first.trials[0].curve} == {1: 9.5, 2: 8.5}
    assert [t.values for t in second.trials] == [{"learning_rate": 0.25, "kind": "big"}]
    code, out, _ = autometa(
        "studies", "import", "runs.csv", *columns, "--study", "runs-B", "--name", "runs", "--replace"
    )
    assert (code, out.splitlines()[0]) == (0, "imported runs-B: 1 trial (1 complete) in runs/studies/runs-B")


def test_an_import_hints_at_columns_that_may_be_no_parameters(autometa: Command, tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("Dataset,loss,rate,seed,host\nA,9.5,0.5,1,x\nB,8.5,0.25,1,x\n")
    code, _, err = autometa("studies", "import", "runs.csv", *BY_LOSS[:4])
    assert code == 0
    assert err.splitlines() == [
        "hint: columns seed, host are the same in all rows, which teaches nothing; "
        "if no parameter: --ignore seed --ignore host",
        "hint: column Dataset is taken for a parameter; if it tells data sets apart: --task Dataset",
    ]
    said = ("--params", "Dataset,rate,seed")  # who names the parameters knows them
    assert not autometa("studies", "import", "runs.csv", *BY_LOSS[:4], *said, "--replace")[2]


def test_show_says_what_a_study_learned_from(autometa: Command, tmp_path: Path) -> None:
    for name, past in (("cold", {}), ("warm", {"a": "0a1b", "b": "2c then 3d", "c": "4e", "d": "5f"}), ("old", None)):
        archive.write(tmp_path / OWN_STUDIES, STUDY.model_copy(update={"name": name, "past": past}), TRIALS)
    assert "learned     from no past study\n" in autometa("studies", "show", "cold")[1]
    assert "learned     from a 0a1b, b 2c then 3d, c 4e, and 1 more\n" in autometa("studies", "show", "warm")[1]
    assert "learned" not in autometa("studies", "show", "old")[1]


def test_show_says_what_a_study_is(autometa: Command, tmp_path: Path) -> None:
    foreign.write(tmp_path / OWN_STUDIES, LOSSES)
    code, out, _ = autometa("studies", "show", "losses")
    assert code == 0
    for words in (
        "data set    letters",
        "parameters  optimizer, rate, layers, nesterov, note",
        "better      smaller",
        "trials      3 trials (1 complete, 1 pruned, 1 fail)",
        "where       runs/studies/losses",
        "value at rung 1, 2, 3:",
        "trial 4, complete: 14.5 – -2.25",
        "trial 5, pruned: – 1e+06 –",
        "optimizer=adam rate=1",
    ):
        assert words in out
    assert out.index("trial 4") < out.index("trial 5")
    assert "trial 5" not in autometa("studies", "show", "runs/studies/losses", "--top", "1")[1]
    code, out, _ = autometa("studies", "show", "digits-5w1s")
    assert "winner      trial 10\n" in out
    assert "validation  74.5 % (classes not known; ± 0.7 over episodes alone)" in out, "as old archives have it"
    for words in ("5-way 1-shot", "few_shot, version", "300 steps or 0.5 TFLOP", "meta-test", "came with autometa"):
        assert words in out
    interrupted_search("sqlite:///runs/autometa.db")
    code, out, _ = autometa("studies", "show", "cut-short")
    assert "trial 0, complete: 25.0 50.0" in out
    assert "sqlite:///runs/autometa.db" in out
    code, _, err = autometa("studies", "show", "loses")
    assert code == 2
    assert "did you mean 'losses'" in err
    code, _, err = autometa("studies", "show", "losses", "--storage", "sqlite:///runs/autometa.db")
    assert code == 2


def test_a_transductive_winner_is_marked(autometa: Command, tmp_path: Path) -> None:
    won = TRIALS[0].model_copy(update={"config": TrialConfig(values={"prototypical.transduction": "knn"})})
    archive.write(tmp_path / OWN_STUDIES, STUDY, [won])
    _, out, _ = autometa("studies", "show", "digits-5w1s")
    assert "winner      trial 1, transductive\n" in out


def test_an_external_winner_is_marked_wherever_it_is_shown(autometa: Command, tmp_path: Path) -> None:
    won = TRIALS[0].model_copy(update={"config": TrialConfig(values={"backbone": "timm", "timm.model": "resnet18"})})
    archive.write(tmp_path / OWN_STUDIES, STUDY, [won])
    _, out, _ = autometa("studies", "show", "digits-5w1s")
    assert "winner      trial 1, external\n" in out
    assert "external · timm model=resnet18" in out
    _, out, _ = autometa("studies")
    assert "trial 1, external" in out


def test_a_study_of_many_rungs_is_shown_at_nine_of_them(autometa: Command, tmp_path: Path) -> None:
    rows = "".join(f"{epoch},{100 - epoch},7\n" for epoch in range(52))
    (tmp_path / "long.csv").write_text("epoch,loss,x\n" + rows)
    autometa("studies", "import", "long.csv", "--value", "loss", "--direction", "minimize", "--rung", "epoch")
    _, out, _ = autometa("studies", "show", "long")
    assert "at rung 1, 7, 14, 20, 27, 33, 39, 46, 52:" in out
    assert "complete: 100 94 87 81 74 68 62 55 49" in out


def test_the_list_is_what_it_was_and_has_foreign_studies_too(autometa: Command, tmp_path: Path) -> None:
    foreign.write(tmp_path / OWN_STUDIES, LOSSES)
    code, out, _ = autometa("studies")
    assert code == 0
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert lines["losses"].split() == ["losses", "letters", "–", "3", "–", "–", "–", "runs/studies/losses"]
    assert "trial 10" in lines["digits-5w1s"]
    assert autometa("studies", "list") == (0, out, "")
    interrupted_search("sqlite:///other.db")
    assert "cut-short" in autometa("studies", "--storage", "sqlite:///other.db")[1]
    assert "cut-short" in autometa("studies", "list", "--storage", "sqlite:///other.db")[1]
    code, _, err = autometa("studies", "--storage", "sqlite:///other.db", "list")
    assert code == 2
    assert "put it behind `studies list`" in err


def test_remove_asks_and_takes_only_what_is_yours(
    autometa: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies = tmp_path / OWN_STUDIES
    for name in ("one", "two", "three"):
        shutil.copytree(foreign.write(tmp_path / "made", LOSSES), studies / name)
    (studies / "two" / "study.toml").write_text("broken")
    (studies / "notes").mkdir()
    for answer, code, says in (("n\n", 0, "nothing removed"), ("", 2, "add --yes")):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        found, out, err = autometa("studies", "remove", "one", "two")
        assert found == code
        assert says in out + err
        assert "runs/studies/one, runs/studies/two" in err
    for name, says in (
        ("digits-5w1s", "came with autometa and stays"),
        ("onee", "did you mean 'one'"),
        ("notes", "no study 'notes'"),
        ("../studies/one", "no study"),
        (".", "no study"),
    ):
        code, _, err = autometa("studies", "remove", "one", name, "--yes")
        assert code == 2
        assert says in err
    assert sorted(p.name for p in studies.iterdir()) == ["notes", "one", "three", "two"]
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, out, _ = autometa("studies", "remove", "one", "two", "one")
    assert (code, out) == (0, "removed runs/studies/one, runs/studies/two\n")
    assert sorted(p.name for p in studies.iterdir()) == ["notes", "three"]
    foreign.write(tmp_path / "studies", LOSSES)
    assert autometa("studies", "remove", "losses", "--yes")[1] == "removed studies/losses\n", "as searches wrote before"
    for folder in ("theirs", "studies"):
        foreign.write(tmp_path / folder, LOSSES)
    assert "no study 'losses' in other" in autometa("studies", "remove", "losses", "--from", "other", "--yes")[2]
    assert autometa("studies", "remove", "losses", "--from", "theirs", "--yes")[1] == "removed theirs/losses\n"
    assert [folder.name for folder in (tmp_path / "studies").iterdir()] == ["losses"], "of the same name elsewhere"
    monkeypatch.chdir(shipped.folder("studies").parent)
    code, _, err = autometa("studies", "remove", "digits-5w1s", "--yes")
    assert (code, "came with autometa and stays" in err) == (2, True), "in a checkout"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["import", "nothing"], "nothing: No such file or directory; give a storage URL"),
        (["import", "notes.txt"], "neither a table"),
        (["import", "fake.db"], "file is not a database"),
        (["import", "alien.db"], "it holds no Optuna studies"),
        (["import", "sqlite:///no.db"], "no.db does not exist"),
        (["import", "sqlite+pysqlite:///no.db"], "no.db does not exist"),
        (["import", "journal:no.log"], "no.log does not exist"),
        (["import", "alien.log"], "not a journal of Optuna"),
        (["import", "journal:notes.txt"], "not a journal of Optuna"),
        (["import", "what://ever"], "cannot be read"),
        (["import", "postgresql://me:secret@127.0.0.1:9/x"], "storage postgresql://me:***@127.0.0.1:9/x"),
        (["import", "postgresql://me:secret@127.0.0.1:9/x", "--value", "v", "--direction", "maximize"], "for tables"),
        (["import", "empty"], "empty: no archive there"),
        (["import", "alien"], "alien/one/study.toml: format is 'other/9'"),
        (["import", "runs.csv"], "--value COLUMN; there are fold, loss, epoch"),
        (["import", "runs.csv", "--rung", "epoch"], "--value: say which column"),
        (["import", "runs.csv", "--value", "loss"], "--direction: say whether greater values of loss are better"),
        (["import", "runs.csv", *BY_LOSS, "--state", "fold"], "runs.csv: row 1: fold is 'a/1'"),
        (["import", "runs.csv", *BY_LOSS, "--rename", "rate"], "--rename rate: give COLUMN=PARAMETER"),
        (["import", "runs.csv", *BY_LOSS, "--study", "run"], "no study 'run'; did you mean 'runs'"),
        (["import", "runs.csv", *BY_LOSS, "--to", "runs.csv"], "runs.csv: not a folder"),
        (["import", "runs.csv", *BY_LOSS, "--to", ".", "--name", "empty"], "empty exists and is no archive"),
        (["import", "runs.csv", *BY_LOSS, "--to", ".", "--name", "empty", "--replace"], "is no archive"),
        (["import", "torn.parquet", "--value", "v", "--direction", "maximize"], "torn.parquet: not a table"),
        (["archive", "x"], "no studies there"),
        (["show", "nothing"], "unknown study 'nothing'"),
        (["show", "alien/one"], "format is 'other/9'"),
        (["remove", "nothing", "--yes"], "no study 'nothing'"),
        (["remve"], "remve"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(
    autometa: Command, tmp_path: Path, arguments: list[str], says: str
) -> None:
    if "torn.parquet" in arguments:
        pytest.importorskip("pyarrow")
    (tmp_path / "notes.txt").write_text("hello\nthere\n")
    (tmp_path / "runs.csv").write_text(TABLE)
    (tmp_path / "torn.parquet").write_text("PAR1 and then the line broke")
    (tmp_path / "fake.db").write_bytes(b"SQLite format 3\0" + b"junk" * 200)
    (tmp_path / "alien.log").write_text(json.dumps({"op_code": 99}) + "\n")
    with sqlite3.connect("alien.db") as database:
        database.execute("CREATE TABLE trials (number)")
    (tmp_path / "empty").mkdir()
    (tmp_path / "alien" / "one").mkdir(parents=True)
    (tmp_path / "alien" / "one" / "study.toml").write_text('format = "other/9"')
    before = {p: p.read_bytes() if p.is_file() else None for p in tmp_path.rglob("*")}
    code, out, err = autometa("studies", *arguments)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert "secret" not in err
    assert not out
    assert {p: p.read_bytes() if p.is_file() else None for p in tmp_path.rglob("*")} == before
