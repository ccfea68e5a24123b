"""Search-space files: what is read, and the one line that says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from autometa.errors import SpaceError
from autometa.space.files import load_space, shipped_spaces

GOOD = """
name = "mine"
[parameters.learner]
choices = ["maml", "prototypical"]
[parameters."maml.inner_lr"]
low = 1e-3
high = 0.5
log = true
when = { learner = "maml" }
"""


# For trainings below a minute, of any time, and from a minute on: the key in the file, and a rate to know it by.
STARTS = (("below_seconds = 60\n", 0.1), ("", 0.2), ("from_seconds = 60\n", 0.3))


def write(folder: Path, text: str) -> Path:
    file = folder / "mine.toml"
    file.write_text(text)
    return file


def test_every_shipped_space_loads_and_names_what_exists() -> None:
    from autometa.trial.check import check_space

    spaces = [load_space(path) for path in shipped_spaces()]
    assert "few_shot" in {space.name for space in spaces}
    for space in spaces:
        check_space(space)


def test_numbers_choices_and_conditions_are_read(tmp_path: Path) -> None:
    space = load_space(write(tmp_path, GOOD))
    rate = space["maml.inner_lr"]
    assert rate.when == {"learner": ("maml",)}
    assert rate.contains(0.02)
    assert not rate.contains(0.6)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("choices =", "choises =", "'choises'; did you mean 'choices'"),
        ("high = 0.5", "hihg = 0.5", "did you mean 'high'"),
        ("high = 0.5", "high = 0.0001", "`low <= high` must hold, but got (low=0.001, high=0.0001)"),
        ("high = 0.5", "high = 'x'", "high"),
        ("high = 0.5", "", "give `choices`, or both `low` and `high`"),
        ("low = 1e-3", "low = -1.0", "`log` needs low > 0"),
        ("{ learner =", "{ lerner =", "`when` names unknown parameter 'lerner'; did you mean 'learner'"),
        ('{ learner = "maml" }', '{ learner = "mamml" }', "`when` wants learner = 'mamml'"),
        ('name = "mine"', "", "'name' is missing"),
        ('["maml", "prototypical"]', '["maml", "maml"]', "must be different values"),
        ("[parameters.learner]", "[parameters.learner", "not valid TOML"),
    ],
)
def test_a_mistake_is_named_with_file_and_field(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(SpaceError) as caught:
        load_space(write(tmp_path, GOOD.replace(old, new)))
    message = str(caught.value)
    assert says in message
    assert message.startswith("mine.toml")
    assert "\n" not in message


def test_conditions_in_a_circle_are_refused(tmp_path: Path) -> None:
    text = """
    name = "circle"
    [parameters.a]
    choices = [1, 2]
    when = { b = 3 }
    [parameters.b]
    choices = [3, 4]
    when = { a = 1 }
    """
    with pytest.raises(SpaceError, match="circle"):
        load_space(write(tmp_path, text))


def test_extends_replaces_single_parameters(tmp_path: Path) -> None:
    base = load_space("few_shot")
    text = 'name = "narrow"\nextends = "few_shot"\nstart = []\n[parameters.backbone]\nchoices = ["conv", "resnet12"]\n'
    narrow = load_space(
        write(tmp_path, text + '[parameters."conv.width"]\nchoices = [8]\nwhen = { backbone = "conv" }')
    )
    gone = {p.name for p in base} - {p.name for p in narrow}
    assert gone == {p.name for p in base if p.name.startswith(("resnet18.", "wrn.", "vit.", "mlp."))}
    assert narrow["conv.width"].allowed() == "8"
    assert set(narrow["norm"].when["backbone"]) == {"conv", "resnet12"}
    assert narrow.version != base.version


def test_extending_keeps_the_starts_that_fit_and_completes_them(tmp_path: Path) -> None:
    base = load_space("few_shot")
    text = 'name = "more"\nextends = "few_shot"\n[parameters.learner]\nchoices = ["prototypical", "maml"]\n'
    more = load_space(write(tmp_path, text + "[parameters.gradient_penalty]\nchoices = [0.3, 0.0]\n"))
    assert [start["learner"] for start in more.start] == ["prototypical", "maml"]
    published = next(start for start in base.start if start["learner"] == "prototypical")
    assert more.start[0] == {**published, "gradient_penalty": 0.3}


def test_a_start_says_for_how_long_a_training_it_is_meant(tmp_path: Path) -> None:
    short, any_time, long = (f'[[start]]\n{time}learner = "maml"\n"maml.inner_lr" = {rate}\n' for time, rate in STARTS)
    space = load_space(write(tmp_path, GOOD + short + any_time + long))
    assert len(space.start) == 3
    rates = {s: [start["maml.inner_lr"] for start in space.for_training(s).start] for s in (0, 59, 60, 1e9)}
    assert rates == {0: [0.1, 0.2], 59: [0.1, 0.2], 60: [0.2, 0.3], 1e9: [0.2, 0.3]}
    assert space.renamed({}).for_training(60).start == space.for_training(60).start
    shipped = load_space("few_shot")
    assert len(shipped.for_training(60).start) == len(shipped.for_training(3600).start) == len(shipped.start) - 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('from_seconds = "1m"', "start 1: from_seconds = '1m': give a number of seconds"),
        ("below_seconds = true", "start 1: below_seconds = True: give a number of seconds"),
        ("from_seconds = -1", "start 1: from_seconds = -1: give a number of seconds"),
        ("below_seconds = nan", "start 1: below_seconds = nan: give a number of seconds"),
        ("from_seconds = 60\nbelow_seconds = 60", "start 1: from_seconds = 60 must be less than below_seconds = 60"),
    ],
)
def test_a_time_of_a_start_that_makes_no_sense_is_refused(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(SpaceError, match=said):
        load_space(write(tmp_path, f'{GOOD}[[start]]\n{line}\nlearner = "maml"\n"maml.inner_lr" = 0.1\n'))


def test_a_start_that_does_not_fit_the_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"start 1: 'maml\.inner_lr' is missing"):
        load_space(write(tmp_path, GOOD + '[[start]]\nlearner = "maml"\n'))


def test_an_unknown_space_names_the_nearest() -> None:
    with pytest.raises(SpaceError, match="did you mean 'few_shot'"):
        load_space("few_shots")


def test_a_learner_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    from autometa.trial.check import check_space

    space = load_space(write(tmp_path, GOOD.replace('"prototypical"', '"protonet"')))
    with pytest.raises(SpaceError, match="unknown learner 'protonet'"):
        check_space(space)
