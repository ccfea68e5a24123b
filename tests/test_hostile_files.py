"""Files that somebody else wrote: whatever is wrong with one is a line that names it, and nothing is written."""

from __future__ import annotations

import json
import random
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as dump_tensors

from autometa.cli import main
from autometa.errors import AutometaError, CheckpointError, ConfigError, SpaceError
from autometa.learning.checkpoint_facts import FORMAT, read_facts
from autometa.parsing import parse_json, parse_toml
from autometa.records import Budget, EpisodeSpec, TrialConfig, parse_budget, parse_seconds
from autometa.shipped import folder as shipped_folder
from autometa.space.files import load_space
from autometa.trial.build import candidate
from autometa.trial.check import check_space
from autometa.trial.evaluate import evaluate_checkpoint
from autometa.trial.job import DatasetRef, Job
from autometa.trial.recipe import read_recipes
from autometa.trial.run import run
from autometa.trial.train import train

SPACE = 'name = "t"\n[parameters.learner]\nchoices = ["prototypical"]\n'
RECIPE = (
    'format = "autometa-recipe/1"\n[[recipe]]\ndataset = "digits"\nseed = 3\n'
    "episodes = { way = 5, shot = 1, query = 5 }\nbudget = { steps = 2 }\nvalidation_episodes = 4\n"
    '[recipe.config]\nlearner = "prototypical"\nouter_lr = 0.002\n[recipe.config.conv]\nwidth = 8\ndepth = 2\n'
)
BIG = 2**70


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (
            "[parameters.outer_lr]\nchoices = [0.1, inf]",
            "outer_lr: choices: finite numbers are allowed, but got inf",
        ),
        ("[parameters.outer_lr]\nchoices = [nan]", "outer_lr: choices: finite numbers are allowed, but got nan"),
        ("[parameters.outer_lr]\nlow = 0.1\nhigh = inf", "outer_lr: high: finite numbers"),
        ("[parameters.outer_lr]\nlow = 0.1\nhigh = 1.0\nstep = nan", "outer_lr: step: finite numbers"),
        (f'[parameters."conv.width"]\nlow = 4\nhigh = {BIG}', "conv.width: high: numbers up to 2^63"),
        (f'[parameters."conv.width"]\nchoices = [{"9" * 5000}]', "thousands of digits"),
        (f"a = {'[' * 5000}{']' * 5000}", "nested more than 50 deep"),
        (f"{'.'.join('a' * 3000)} = 1", "nested more than 50 deep"),
        ('[parameters."conv.width"]\nchoices = [3.5]', "conv.width = 3.5: it must be a whole number"),
        ('[parameters."conv.width"]\nchoices = [8.0]', "conv.width = 8.0: it must be a whole number"),
        ('[parameters."conv.depth"]\nchoices = [true]', "conv.depth = True: it must be a whole number"),
        ('[parameters.outer_lr]\nchoices = ["x"]', "outer_lr = 'x': it must be a number"),
        ("[parameters.rotations]\nchoices = [3]", "rotations = 3: it must be true or false"),
        ("[parameters.schedule]\nchoices = [1]", "schedule = 1: it must be a text"),
    ],
)
def test_a_space_file_that_cannot_be(parameters: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "odd.toml"
    file.write_text(f"{SPACE}{parameters}\n")
    with pytest.raises(SpaceError) as told:
        check_space(load_space(file))
    assert says in str(told.value)
    assert str(told.value).startswith("odd.toml: ")


def test_a_whole_number_is_a_number(tmp_path: Path) -> None:
    file = tmp_path / "fine.toml"
    file.write_text(SPACE + "[parameters.clip_norm]\nchoices = [1, 2.5]\n")
    check_space(load_space(file))


def test_spaces_do_not_extend_one_another_without_end(tmp_path: Path) -> None:
    for number in range(1500):
        (tmp_path / f"{number}.toml").write_text(f'name = "t"\nextends = "./{number + 1}.toml"\n')
    (tmp_path / "1500.toml").write_text(SPACE)
    with pytest.raises(SpaceError, match="leads through more than 20 files"):
        load_space(tmp_path / "0.toml")
    assert load_space(tmp_path / "1490.toml").name == "t"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("seed = 3", f"seed = {BIG}", "recipe 1: seed"),
        ("seed = 3", f"validation_seed = {BIG}", "recipe 1: validation_seed"),
        ("width = 8", "width = 3.5", "config: conv.width = 3.5: it must be a whole number"),
        ("outer_lr = 0.002", 'outer_lr = "x"', "config: outer_lr = 'x': it must be a number"),
        ("outer_lr = 0.002", "outer_lr = nan", "outer_lr"),
        ("outer_lr = 0.002", '"conv.width" = 4', "config: conv.width is given twice"),
        ("outer_lr = 0.002", "a.b = 4\n'a.b' = 4", "config: a.b is given twice"),
        ("outer_lr = 0.002", f"{'.'.join('a' * 3000)} = 1", "nested more than 50 deep"),
    ],
)
def test_a_recipe_that_cannot_be(old: str, new: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "odd.toml"
    file.write_text(RECIPE.replace(old, new))
    with pytest.raises(ConfigError) as told:
        candidate(TrialConfig(values=read_recipes(file)[0].config), where=f"{file}: recipe 1: config")
    assert says in str(told.value)
    assert str(told.value).startswith(f"{file}: ")


def test_a_recipe_in_json_gives_nothing_twice(tmp_path: Path) -> None:
    file = tmp_path / "odd.json"
    for text, says in (('{"format": 1, "format": 2}', "'format' is given twice"), ("[" * 100_000, "nested more than")):
        file.write_text(text)
        with pytest.raises(ConfigError, match=says):
            read_recipes(file)


def test_what_is_written_is_not_too_deep() -> None:
    assert parse_json('{"a": [{"b": 1}]}') == parse_toml("a = [{b = 1}]")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["search", "--seed", "4294967296"], "--seed 4294967296: at least 0 is needed, and 4,294,967,295 at most"),
        (["search", "--seed", str(BIG)], "--seed"),
        (["search", "--trials", str(BIG)], "at least 1 is needed, and 1,000,000 at most"),
        (["train", "recipe.toml", "--seed", str(BIG)], "--seed"),
        (["train", "recipe.toml", "--budget", "1" * 400], "give a number of steps"),
        (["evaluate", "model", "--seed", str(BIG)], "--seed"),
    ],
)
def test_a_number_that_cannot_be(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["autometa", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    _, err = capsys.readouterr()
    assert ended.value.code == 2
    assert says in err
    assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.toml"]


@pytest.mark.parametrize("read", [parse_budget, parse_seconds])
@pytest.mark.parametrize("text", ["1" * 400, "9" * 5000, "0", "1" * 400 + "h"])
def test_no_budget_is_endless(read: Callable[[str], object], text: str) -> None:
    with pytest.raises(ConfigError):
        read(text)


def test_a_seed_from_python_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    with pytest.raises(ConfigError, match=r"recipe.toml: recipe 1: seed"):
        train(tmp_path / "recipe.toml", tmp_path / "model", seed=BIG)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"extra": None}, "extra: Input should be a valid dictionary"),
        ({"extra": [3]}, "extra: Input should be a valid dictionary"),
        ({"extra": {"train_classes": "many"}}, "train_classes"),
        ({"extra": {"validation_counts": 3}}, "validation_counts"),
        ({"curve": None}, "curve"),
        ({"curve": [{"rung": 0}]}, "curve.0.rung"),
        ({"steps": -1}, "steps"),
        ({"seconds": float("nan")}, "seconds"),
        ({"a": {}} | {"extra": json.loads('{"a":' * 60 + "1" + "}" * 60)}, "nested more than 50 deep"),
    ],
)
def test_a_checkpoint_that_cannot_be(facts: dict[str, object], says: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint.json").write_text(json.dumps({"format": FORMAT, **facts}))
    with pytest.raises(CheckpointError) as told:
        read_facts(tmp_path)
    assert f"{tmp_path / 'checkpoint.json'}: damaged: " in str(told.value)
    assert says in str(told.value)


def mutated(text: bytes, chance: random.Random) -> bytes:
    """The text with a few bytes gone, doubled, or put where others were."""
    data = bytearray(text)
    tokens = [
        b"inf",
        b"nan",
        b"-1",
        b"0",
        b"true",
        b'""',
        b"[]",
        b"{}",
        b"null",
        b"1e999",
        b"3.5",
        b'"x"',
        b"\xff",
        b"\n",
    ]
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(data))
        match chance.randrange(4):
            case 0:
                del data[at : at + chance.randint(1, 8)]
            case 1:
                data[at:at] = data[at : at + chance.randint(1, 30)]
            case 2:
                data[at : at + chance.randint(0, 4)] = chance.choice(tokens)
            case _:
                data[at] = chance.randrange(256)
    return bytes(data)


def tokens_changed(text: bytes, chance: random.Random) -> bytes:
    """The text with the value of one of its lines or entries exchanged for one of another kind."""
    values = [b"inf", b"-1", b"0", b"true", b'""', b"[]", b"{}", b"1e308", b"3.5", b'"x"', b"9223372036854775807"]
    sign = b"=" if b" = " in text else b":"
    places = [at for at in range(len(text)) if text[at : at + 1] == sign]
    at = chance.choice(places) + 1
    ends = [end for end in (text.find(b"\n", at), text.find(b",", at), text.find(b"}", at)) if end > 0]
    return text[:at] + b" " + chance.choice(values) + text[min(ends, default=len(text)) :]


def either(text: bytes, chance: random.Random) -> bytes:
    return chance.choice((mutated, tokens_changed))(text, chance)


def read_space(file: Path) -> None:
    check_space(load_space(file))


def read_recipe(file: Path) -> None:
    for recipe in read_recipes(file):
        recipe.job(Path("nowhere"))
        candidate(TrialConfig(values=recipe.config), where=str(file))


@pytest.mark.parametrize("seed", range(2))
def test_no_damage_to_a_space_or_a_recipe_is_a_traceback(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    shipped = (shipped_folder("search_spaces") / "transductive.toml").read_bytes()
    cases: list[tuple[str, bytes, Callable[[Path], None]]] = [
        ("space.toml", (SPACE + '[parameters."conv.width"]\nlow = 4\nhigh = 8\n').encode(), read_space),
        ("shipped.toml", shipped.replace(b'"few_shot"', b'"./space.toml"'), load_space),
        ("recipe.toml", RECIPE.encode(), read_recipe),
        ("recipe.json", json.dumps(parse_toml(RECIPE)).encode(), read_recipe),
    ]
    (tmp_path / "space.toml").write_bytes(cases[0][1])
    says = []
    for _ in range(60):
        for name, text, read in cases:
            file = tmp_path / f"odd-{name}"
            file.write_bytes(either(text, chance))
            try:
                read(file)
            except AutometaError as error:
                says.append(str(error))
    assert len(says) > 100
    assert [line for line in says if "odd-" not in line] == []


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    asked = Job(
        config=TrialConfig(values={"conv.width": 4, "conv.depth": 1}),
        dataset=DatasetRef(name="digits"),
        episodes=EpisodeSpec(way=5, shot=1, query=2),
        budget=Budget(steps=2, rungs=1),
        seed=3,
        folder=str(folder),
        validation_episodes=2,
        use_gpu=False,
    )
    run(asked)
    return folder


def test_no_damage_to_a_checkpoint_is_a_traceback(model: Path, tmp_path: Path) -> None:
    chance = random.Random(5)
    folder = tmp_path / "odd"
    facts = json.loads((model / "checkpoint.json").read_text())
    says = []
    for case in range(40):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(model, folder)
        target = folder / ("checkpoint.json" if case % 2 else facts["tensors"])
        target.write_bytes(either(target.read_bytes(), chance) if case % 2 else mutated(target.read_bytes(), chance))
        try:
            evaluate_checkpoint(folder, split="val", episodes=2, use_gpu=False)
        except AutometaError as error:
            says.append(str(error))
    assert len(says) > 20
    assert [line for line in says if str(folder) not in line and not re.search("it (may|must) be", line)] == []


@pytest.mark.parametrize(
    "change",
    [
        {"generator/training": torch.zeros(3, dtype=torch.uint8)},
        {"generator/training": torch.zeros(3)},
        {"optimizer/x": torch.zeros(3)},
        {"optimizer/0/exp_avg": torch.zeros(3)},
        {"optimizer/99999999999999999999/exp_avg": torch.zeros(3)},
        {"learner/backbone.blocks.0.conv.weight": torch.zeros(3)},
        {},
    ],
)
def test_tensors_of_other_shapes_are_refused_when_training_goes_on(
    change: dict[str, torch.Tensor], model: Path, tmp_path: Path
) -> None:
    import hashlib

    from safetensors.torch import load as load_tensors

    folder = tmp_path / "odd"
    shutil.copytree(model, folder)
    facts = json.loads((folder / "checkpoint.json").read_text())
    tensors = load_tensors((folder / facts["tensors"]).read_bytes())
    data = dump_tensors({**tensors, **change} if change else {})
    (folder / facts["tensors"]).write_bytes(data)
    facts |= {"sha256": hashlib.sha256(data).hexdigest()}
    facts["extra"]["job"]["folder"] = str(folder)
    (folder / "checkpoint.json").write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match=str(folder)):
        run(Job.model_validate(facts["extra"]["job"]))
