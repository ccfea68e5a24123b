"""What learners and backbones declare: known to a driver without torch, true, and open to other packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autometa.learning.backbones.backbone import Backbone
from autometa.records import Scalar, TrialConfig
from autometa.space.parameters import Choice
from autometa.space.space import SearchSpace
from autometa.trial import abilities, build, declare
from autometa.trial.abilities import declared, external_backbones, is_stackable, is_transductive
from tests.commands import search_digits


def test_the_copy_for_the_driver_says_what_the_classes_do() -> None:
    assert abilities.FILE.read_text(encoding="utf-8") == declare.text(), "run: python -m autometa.trial.declare"
    for kind, table in (("learner", build.LEARNERS), ("backbone", build.BACKBONES)):
        for name, of_class in table.items():
            assert abilities.of(kind, name) == declared(of_class), name


def test_a_driver_that_asks_what_a_candidate_can_do_loads_no_torch() -> None:
    code = (
        "import sys; from autometa.trial.abilities import is_stackable, marks; "
        "print(marks({'backbone': 'timm', 'conv.norm': 'transductive', 'away.width': 3}), is_stackable({}), "
        "'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "('transductive', 'external') True False\n"


@pytest.mark.parametrize(
    ("name", "value", "is_it"),
    [
        ("norm", "transductive", True),
        ("maml.norm", "transductive", True),
        ("norm", "support", False),
        ("prototypical.transduction", "knn", True),
        ("pretrain.transduction", "none", False),
        ("learner", "maml", False),
        ("ridge.transduction", "knn", False),  # has no such option
    ],
)
def test_which_values_are_transductive(name: str, value: Scalar, is_it: bool) -> None:
    assert is_transductive(name, value) is is_it


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, True),
        ({"learner": "pretrain", "pretrain.mixing": "none", "conv.drop_rate": 0.0}, True),
        ({"learner": "pretrain", "pretrain.mixing": "mixup"}, False),
        ({"learner": "prototypical", "backbone": "resnet12", "resnet12.drop_rate": 0.1}, False),
        ({"learner": "matching", "matching.full_context": True}, False),
        ({"learner": "ridge", "contrastive_weight": 0.1}, False),
        ({"learner": "maml"}, False),
        ({"learner": "ridge", "backbone": "timm"}, False),
    ],
)
def test_what_is_worth_trying_together(values: dict[str, Scalar], expected: bool) -> None:
    assert is_stackable(values) == expected


@pytest.mark.parametrize("learner", ["prototypical", "pretrain"])
@pytest.mark.parametrize("transduction", ["none", "soft_kmeans", "pseudo_label", "knn"])
def test_a_learner_is_transductive_as_it_declares(learner: str, transduction: str) -> None:
    values: dict[str, Scalar] = {"learner": learner, f"{learner}.transduction": transduction}
    built = build.candidate(TrialConfig(values=values)).build(image_shape=(1, 8, 8), way=5, train_classes=8)
    assert built.transductive == is_transductive(f"{learner}.transduction", transduction)


class Always(Backbone):
    """Weights of its own are never to be had."""

    external = True


class Optional(Always):
    """Has weights from elsewhere on demand, and not by default."""

    external = False
    own_weights_with = {"weights": "none"}

    def __init__(self, image_shape: tuple[int, int, int], *, weights: str = "none") -> None: ...


def test_a_condition_on_an_option_that_is_left_out_is_met_by_its_default() -> None:
    optional, timm = declared(Optional), declared(build.BACKBONES["timm"])
    assert optional.meets(optional.own_weights_with, {})
    assert not optional.meets(optional.own_weights_with, {"weights": "hub"})
    assert not timm.meets(timm.own_weights_with, {})
    assert timm.meets(timm.own_weights_with, {"weights": "none"})
    assert declared(Always).own_weights_with is None


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        (None, ["timm"]),
        (Choice("timm.weights", ("none",), when={"backbone": ("timm",)}), []),
        (Choice("timm.weights", ("none", "hub"), when={"backbone": ("timm",)}), ["timm"]),
        (Choice("timm.weights", ("none",), when={"timm.frozen": (True,)}), ["timm"]),
    ],
)
def test_which_backbones_of_a_space_may_be_external(weights: Choice | None, found: list[str]) -> None:
    others = (Choice("backbone", ("conv", "timm")), Choice("timm.frozen", (True, False)))
    assert external_backbones(SearchSpace("s", others if weights is None else (*others, weights))) == found


OUTSIDE = '''
from autometa.learning.learners.prototypical import Prototypical

class Nearest(Prototypical):
    """Its queries may be scored together; it is never stacked where that is so."""

    inductive_with = {"queries": "apart"}
    stackable_with = {"queries": "apart"}

    def __init__(self, backbone, setting, *, queries: str = "apart"):
        super().__init__(backbone, setting)
'''
ASK = """
from autometa.trial.abilities import is_stackable, marks
for queries in ("apart", "together"):
    values = {"learner": "nearest", "nearest.queries": queries}
    print(marks(values), is_stackable(values))
print(is_stackable({"learner": "unknown"}))
"""


@pytest.fixture
def other_package(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that has one more package, installed as any would be."""
    site = tmp_path / "site"
    (site / "others-1.0.dist-info").mkdir(parents=True)
    (site / "others.py").write_text(OUTSIDE)
    (site / "others-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (site / "others-1.0.dist-info" / "entry_points.txt").write_text("[autometa.learners]\nnearest = others:Nearest\n")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}


def test_what_a_learner_of_another_package_declares_counts(other_package: dict[str, str], tmp_path: Path) -> None:
    how = {"env": other_package, "cwd": tmp_path, "capture_output": True, "text": True}
    asked = subprocess.run([sys.executable, "-c", ASK], **how, check=True)
    assert asked.stdout.splitlines() == ["() True", "('transductive',) False", "False"]
    (tmp_path / "own.toml").write_text(
        'name = "own"\n[parameters.learner]\nchoices = ["nearest"]\n'
        '[parameters."nearest.queries"]\nchoices = ["apart", "together"]\n'
    )
    done = subprocess.run(search_digits("--space", "own.toml"), **how, check=False)
    assert done.returncode == 2
    assert "nearest.queries = 'together' is transductive" in done.stderr
