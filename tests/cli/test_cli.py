"""The command line as a user meets it: answers, files, and one line for what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from autometa import shipped
from autometa.archives import archive
from autometa.archives.read import past_studies
from autometa.cli import main
from autometa.trial.recipe import read_recipes

TINY = """
name = "tiny"
[parameters.learner]
choices = ["prototypical"]
[parameters."conv.width"]
choices = [4, 8]
"""


TINY_SEARCH = ("search", "--dataset", "digits", "--space", "tiny.toml")


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["autometa", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY)
    return tmp_path


def test_help_answers_within_a_second_and_loads_neither_torch_nor_ray() -> None:
    code = (
        "import sys; sys.argv = ['autometa', '--help']\n"
        "from autometa.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'ray', 'optuna', 'pandas'} & set(sys.modules)), file=sys.stderr)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 2  # a second on a quiet machine
    assert "search" in done.stdout
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["search", "--dataset", "digits", "--dataset", "cifar_fs"],
            "unknown data set 'cifar_fs'; did you mean 'cifar-fs'",
        ),
        (["search", "--dataset", "digits", "--dataset", "./one"], "one class only"),
        (["search", "--dataset", "digits", "--dataset", "cifar-fs", "--data-root", "cut"], "not a complete zip file"),
        (
            ["search", "--dataset", "digits", "--space", "typo.toml"],
            "typo.toml: parameters.learner: unknown key 'choises'; did you mean 'choices'",
        ),
        (["search", "--dataset", "digits", "--space", "when.toml"], "`when` names unknown parameter 'lerner'"),
        (["search", "--dataset", "digits", "--space", "low.toml"], "`low <= high` must hold, but got (low=2, high=1)"),
        (
            ["search", "--dataset", "digits", "--space", "alien.toml"],
            "'conv.widht' is not an option of any learner or backbone",
        ),
        (["search", "--dataset", "digits", "--space", "nothing.toml"], "no such file"),
        (
            ["search", "--dataset", "digits", "--storage", "sqlite:////proc/none/x.db"],
            "storage sqlite:////proc/none/x.db cannot be opened",
        ),
        (
            ["search", "--dataset", "digits", "--storage", "postgresql://me:secret@127.0.0.1:9/x"],
            "storage postgresql://me:***@127.0.0.1:9/x",
        ),
        (["search", "--dataset", "digits", "--storage", "here.db"], "give sqlite:///FILE"),
        (["search", "--dataset", "digits", "--shot", "500"], "--shot 500 + --query 15 needs 515: lower one of them"),
        (["search", "--dataset", "digits", "--way", "12"], "has 8 classes, but --way 12"),
        (["search", "--dataset", "digits", "--way", "1"], "--way 1: at least 2 is needed"),
        (["search", "--dataset", "digits", "--trials", "0"], "--trials 0"),
        (
            ["search", "--dataset", "digits", "--study", "."],
            "--study '.': a name has letters, digits and . _ + = - in it",
        ),
        (["search", "--dataset", "digits", "--study", "../../x"], "--study '../../x'"),
        (["search", "--dataset", "digits", "--budget", "many"], "budget 'many'"),
        (["search", "--dataset", "digits", "--time-budget", "12 parsecs"], "time '12 parsecs'"),
        (["search", "--dataset", "digits", "--pruner", "halvin"], "unknown pruner 'halvin'; did you mean 'halving'"),
        (["search", "--dataset", "digits", "--workers", "no"], "--workers"),
        (
            ["search", "--dataset", "digits", "--space", "peeking.toml"],
            "prototypical.transduction = 'knn' is transductive",
        ),
        (["search", "--dataset", "digits", "--space", "regularized"], "the classes of digits are rotations already"),
        (
            ["search", "--dataset", "digits", "--space", "elsewhere.toml"],
            "backbone = 'timm' brings weights trained elsewhere",
        ),
        (["search", "--dataset", "digits", "--pretrain-dataset", "./one"], "one class only"),
        (["serch"], "serch"),
        (["export", "nothing"], "no studies yet"),
        (["train", "nothing.toml"], "nothing.toml: cannot be read"),
        (["train", "tiny.toml"], "not a recipe"),
        (["evaluate", "nowhere"], "no checkpoint there"),
        (["dashboard"], "no studies yet"),
        (["spaces", "few-shot"], "did you mean 'few_shot'"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2_and_nothing_is_written(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.setenv("AUTOMETA_CACHE", str(tmp_path_factory.mktemp("empty-cache")))
    (folder / "one" / "cat").mkdir(parents=True)
    (folder / "one" / "cat" / "1.png").write_bytes(b"")
    (folder / "cut").mkdir()
    (folder / "cut" / "cifar100.zip").write_bytes(b"PK\x03\x04 and then the line broke")
    (folder / "typo.toml").write_text(TINY.replace("choices", "choises", 1))
    (folder / "when.toml").write_text(TINY + 'when = { lerner = "prototypical" }\n')
    (folder / "low.toml").write_text(TINY + '[parameters."conv.depth"]\nlow = 2\nhigh = 1\n')
    (folder / "alien.toml").write_text(TINY.replace("conv.width", "conv.widht"))
    (folder / "peeking.toml").write_text(TINY + '[parameters."prototypical.transduction"]\nchoices = ["none", "knn"]\n')
    (folder / "elsewhere.toml").write_text('name = "x"\n[parameters.backbone]\nchoices = ["timm"]\n')
    before = sorted(p.name for p in folder.iterdir())
    code, out, err = run(capsys, monkeypatch, *arguments)
    assert code == 2
    assert says in err
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert "secret" not in err
    assert not out
    assert sorted(p.name for p in folder.iterdir()) == before


def test_lists_show_what_there_is(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capsys, monkeypatch, "datasets")
    assert code == 0
    for word in ("digits", "embedded", "cifar-fs", "64/16/20", "fc100", "omniglot", "mnist"):
        assert word in out
    code, out, _ = run(capsys, monkeypatch, "spaces")
    assert "few_shot" in out
    code, out, _ = run(capsys, monkeypatch, "spaces", "tiny.toml")
    assert "conv.width" in out
    assert "valid, 2 parameters" in out
    code, out, _ = run(capsys, monkeypatch, "studies")
    assert code == 0
    code, out, _ = run(capsys, monkeypatch, "--version")
    assert out.startswith("autometa 0.")


def test_replicates_have_seeds_of_their_own_and_their_spread_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capsys, monkeypatch, *TINY_SEARCH, "--trials", "1", "--budget", "6", "--seeds", "2")
    assert code == 0
    studies = [archive.read(folder / "runs" / "studies" / f"digits-5w1s-tiny{more}").study for more in ("", "-seed1")]
    assert [study.seed for study in studies] == [0, 1]
    assert not any("digits-5w1s-tiny" in study.past for study in studies), "no replicate learns from another"
    first, second = (100 * test.mean for study in studies if (test := study.confirmed[-1].test))
    apart = abs(first - second)
    said = f"{(first + second) / 2:.1f} ± {12.706 * apart / 2:.1f} % (standard deviation {apart / 2**0.5:.1f}; "
    assert out.splitlines()[-1] == f"meta-test over 2 searches: {said}the same classes)"


def test_from_a_search_to_an_evaluated_model_as_the_readme_has_it(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(capsys, monkeypatch, *TINY_SEARCH, "--trials", "3", "--budget", "60", "--json")
    assert code == 0
    events = [json.loads(line) for line in out.splitlines()]
    assert [event["event"] for event in events[:2]] == ["LearningFromPast", "SearchStarted"]
    won = events[-1]["winner"]
    assert won["validation"]["mean"] > 0.3

    code, out, _ = run(capsys, monkeypatch, "export", "digits-5w1s-tiny", "--top", "2", "-o", "best.json")
    assert code == 0
    recipes = read_recipes(folder / "best.json")
    assert len(recipes) == 2
    key = "trial" if won["trial"] is not None else "baseline"
    assert recipes[0].provenance[key] == won[key]
    assert recipes[0].provenance["meta_test"] == won["test"]
    others = {one.name for one in past_studies(shipped.folder("studies")) if one.dataset != "digits"}
    permitted = {name for name in others if not name.endswith("-external")}
    assert set(recipes[0].provenance["past"]) == permitted, "shipped archives of digits are of the same data"
    assert recipes[0].budget.steps == (60 if won["baseline"] is None else 0)
    code, out, _ = run(capsys, monkeypatch, "export", "digits-5w1s-tiny", "-o", "best.toml")
    assert read_recipes(folder / "best.toml") == recipes[:1]

    code, out, _ = run(capsys, monkeypatch, "train", "best.toml", "-o", "model", "--json")
    assert code == 0
    record = json.loads(out)
    trained = record["curve"][-1]["accuracy"]
    chosen = recipes[0].provenance["validation"]
    assert abs(trained["mean"] - chosen["mean"]) <= trained["half_width"] + chosen["half_width"]

    code, out, _ = run(capsys, monkeypatch, "evaluate", "model", "--episodes", "200", "--json")
    tested = json.loads(out)
    assert (tested["split"], tested["episodes"]) == ("test", 200)
    assert abs(tested["mean"] - won["test"]["mean"]) <= tested["half_width"] + won["test"]["half_width"]

    attacked = ("evaluate", "model", "--episodes", "50", "--attack", "pgd", "--epsilon", "16/255")
    code, out, _ = run(capsys, monkeypatch, *attacked)
    assert code == 0
    assert "under pgd with ε = 16/255, 10 steps" in out
    code, _, err = run(capsys, monkeypatch, *attacked[:-1], "eight")
    assert code == 2
    assert "--epsilon eight" in err

    code, out, err = run(capsys, monkeypatch, "train", "best.toml", "-o", "model", "--seed", "9")
    assert code == 2
    assert "another seed" in err
    code, out, _ = run(capsys, monkeypatch, "train", "best.toml", "-o", "model")
    assert code == 0, "training again what is trained is no work and no error"

    code, out, _ = run(capsys, monkeypatch, "studies")
    lines = [line for line in out.splitlines() if line.startswith("digits-5w1s-tiny")]
    assert len(lines) == 2, "once archived, once in the storage"


def test_a_recipe_that_does_not_fit_says_where(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = (
        'format = "autometa-recipe/1"\n[[recipe]]\ndataset = "digits"\n'
        "episodes = { way = 5, shot = 1, query = 5 }\nbudget = { steps = 2 }\n"
        '[recipe.config]\nlearner = "prototypical"\n'
    )
    for old, new, says in (
        ("way = 5", "way = 1", "recipe 1: episodes.way"),
        ('"prototypical"', '"protypical"', "unknown learner 'protypical'; did you mean 'prototypical'"),
        ('learner = "prototypical"', "prototypical.temprature = 1.0", "did you mean 'prototypical.temperature'"),
        ("dataset =", "data =", "dataset"),
    ):
        (folder / "r.toml").write_text(good.replace(old, new))
        code, _, err = run(capsys, monkeypatch, "train", "r.toml")
        assert code == 2
        assert says in err
        assert not (folder / "runs").exists()


def test_the_dashboard_answers_on_loopback(folder: Path) -> None:
    import urllib.request

    from autometa.hpo.storage import open_storage
    from tests.study.conftest import environment

    open_storage("sqlite:///runs/autometa.db")
    arguments = [sys.executable, "-m", "autometa", "dashboard", "--port", "0"]
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment())
    try:
        assert process.stderr is not None
        url = next(word for word in process.stderr.readline().split() if word.startswith("http"))
        assert url.startswith("http://127.0.0.1:")
        assert "Optuna Dashboard" in urllib.request.urlopen(url, timeout=10).read().decode()
    finally:
        process.kill()


def test_seeds_of_a_recipe_are_trained_and_measured_together(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AUTOMETA_HOME", str(folder / "home"))
    (folder / "best.toml").write_text(
        'format = "autometa-recipe/1"\n[[recipe]]\ndataset = "digits"\nvalidation_episodes = 30\nseed = 4\n'
        "episodes = { way = 3, shot = 1, query = 5 }\nbudget = { steps = 4, rungs = 2 }\n"
        '[recipe.config]\nlearner = "prototypical"\nconv = { width = 4, depth = 1 }\n'
    )
    code, out, _ = run(capsys, monkeypatch, "train", "best.toml", "-o", "models", "--seeds", "2")
    assert code == 0
    assert [path.name for path in sorted((folder / "models").iterdir())] == ["seed-4", "seed-5"]
    assert "together: " in out
    assert "(8 classes, 2 seeds; ± " in out
    code, again, _ = run(capsys, monkeypatch, "train", "best.toml", "-o", "models", "--seeds", "2", "--json")
    trained = json.loads(again)
    assert list(trained["seeds"]) == ["4", "5"]
    means = [trained["seeds"][seed]["curve"][-1]["accuracy"]["mean"] for seed in ("4", "5")]
    assert trained["validation"]["mean"] == pytest.approx(sum(means) / 2), "on the episodes that each was validated on"

    code, out, _ = run(capsys, monkeypatch, "evaluate", "models", "--episodes", "40", "--json")
    tested = json.loads(out)
    assert (tested["over_classes"]["seeds"], tested["over_classes"]["classes"]) == (2, 8)
    assert [each["look"] for each in tested["each"]] == [1, 2]
    code, out, err = run(capsys, monkeypatch, "evaluate", "models/seed-5", "--episodes", "30")
    assert "look 2 at these test classes" in out, "the same model is the same look"
    assert "95 % over 8 test classes, 30 episodes; ± " in out
    assert max(map(len, out.splitlines())) <= 80
    for arguments in (["-o", "models"], ["-o", "models/seed-4", "--seeds", "2"]):
        code, _, err = run(capsys, monkeypatch, "train", "best.toml", *arguments)
        assert code == 2
        assert "choose another folder" in err


def test_a_model_is_trained_further_exported_and_never_written_over_unasked(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "best.toml").write_text(
        'format = "autometa-recipe/1"\n[[recipe]]\ndataset = "digits"\nvalidation_episodes = 10\n'
        "episodes = { way = 3, shot = 1, query = 5 }\nbudget = { steps = 6, rungs = 1 }\n"
        '[recipe.config]\nlearner = "prototypical"\nconv = { width = 4, depth = 1 }\n'
        '[recipe.provenance]\nstudy = "other"\ntrial = 7\n'
    )
    assert run(capsys, monkeypatch, "train", "best.toml", "-o", "runs/s/model")[0] == 0
    code, out, _ = run(capsys, monkeypatch, "train", "runs/s/model", "--budget", "10")
    assert code == 0
    assert "trained 16 steps" in out
    assert "next: autometa evaluate runs/models/s-further" in out
    again = ("train", "runs/models/s-further", "--budget", "10", "-o", "runs/models/s-further", "--json")
    code, out, _ = run(capsys, monkeypatch, *again)
    assert json.loads(out)["members"][0]["curve"][-1]["steps"] == 6 + 8 + 10, "from before the cool-down"
    code, out, _ = run(capsys, monkeypatch, "export", "runs/models/s-further", "-o", "further.json")
    assert code == 0
    assert "trial 7 of runs/models/s-further" in out
    (recipe,) = read_recipes(folder / "further.json")
    assert (recipe.budget.steps, recipe.config["schedule"], recipe.provenance["study"]) == (24, "trapezoid", "other")
    assert run(capsys, monkeypatch, "export", "runs/s/model")[0] == 0
    assert read_recipes(folder / "s.toml") == read_recipes(folder / "best.toml")
    (folder / "empty").mkdir()
    for arguments, says in (
        (["runs/s/model"], "--budget: say how much longer"),
        (["runs/s/model", "--budget", "2", "--seed", "3"], "--seed: runs/s/model is a model"),
        (["runs/s/model", "--budget", "2", "--rank", "2"], "--rank: "),
        (["runs/s/model", "--budget", "2", "--seeds", "2"], "--seeds: "),
        (["runs/s/model", "--budget", "2", "-o", "runs/models/s-further"], "choose another folder"),
        (["empty", "--budget", "2"], "no checkpoint there"),
    ):
        code, out, err = run(capsys, monkeypatch, "train", *arguments)
        assert code == 2
        assert says in err
        assert err.count("\n") == 1
        assert not out


def test_a_record_of_looks_that_cannot_be_written_stops_no_evaluation(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "best.toml").write_text(
        'format = "autometa-recipe/1"\n[[recipe]]\ndataset = "digits"\nvalidation_episodes = 10\n'
        "episodes = { way = 2, shot = 1, query = 3 }\nbudget = { steps = 1, rungs = 1 }\n"
        '[recipe.config]\nlearner = "prototypical"\nconv = { width = 4, depth = 1 }\n'
    )
    assert run(capsys, monkeypatch, "train", "best.toml", "-o", "model")[0] == 0
    monkeypatch.setenv("AUTOMETA_HOME", str(folder / "best.toml"))
    code, out, err = run(capsys, monkeypatch, "evaluate", "model", "--episodes", "5")
    assert code == 0
    assert "a look that was not counted" in out
    assert err.startswith("warning: the record of test looks cannot be written")
    assert err.count("\n") == 1
