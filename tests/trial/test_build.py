"""Names become objects, and what does not fit together is refused when a space is read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from autometa.errors import ConfigError, SpaceError
from autometa.learning.learner import Learner
from autometa.records import Budget, EpisodeSpec, Scalar, TrialConfig
from autometa.space.files import load_space
from autometa.trial import build
from autometa.trial.check import cases, check_space
from tests.commands import search_digits


def config(**values: Scalar) -> TrialConfig:
    return TrialConfig(values={name.replace("__", "."): value for name, value in values.items()})


def built(shape: tuple[int, int, int], **values: Scalar) -> Learner:
    return build.candidate(config(**values)).build(image_shape=shape, way=5, train_classes=8)


def space(tmp_path: Path, **parameters: list[Any]) -> Any:
    lines = ['name = "tried"']
    for name, choices in parameters.items():
        text = ", ".join(f'"{c}"' if isinstance(c, str) else str(c).lower() for c in choices)
        lines += [f'[parameters."{name.replace("__", ".")}"]', f"choices = [{text}]"]
    file = tmp_path / "tried.toml"
    file.write_text("\n".join(lines))
    return load_space(file)


@pytest.mark.parametrize("name", list(build.tables()["learner"]))
def test_every_learner_can_be_had_by_its_name_alone(name: str) -> None:
    learner = built((1, 8, 8), learner=name)
    assert type(learner) is build.tables()["learner"][name]


@pytest.mark.parametrize("name", [name for name in build.tables()["backbone"] if name not in ("timm", "transformers")])
def test_every_backbone_can_be_had_by_its_name_alone(name: str) -> None:
    learner = built((3, 32, 32), backbone=name)
    assert type(learner.backbone) is build.tables()["backbone"][name]


def test_a_common_option_under_the_learners_name_is_for_that_learner_alone() -> None:
    given = {"outer_lr": 0.01, "tuned.outer_lr": 1e-4, "tuned.train_way": 10, "train_way": 20, "train_query": 3}
    values = given | {"lite.weights": "none"}
    tuned, other = (build.candidate(config(learner=learner, **values)) for learner in ("tuned", "prototypical"))
    assert (tuned.training.outer_lr, tuned.sampling.train_way) == (1e-4, 10)
    assert (other.training.outer_lr, other.sampling.train_way) == (0.01, 20)
    spec = EpisodeSpec(way=5, shot=1, query=15)
    assert tuned.sampling.episodes(spec, 64) == EpisodeSpec(way=10, shot=1, query=3)
    with pytest.raises(ConfigError, match=r"tuned.train_way = 0.5: it must be a whole number"):
        build.candidate(config(learner="tuned", tuned__train_way=0.5))
    with pytest.raises(ConfigError, match=r"here: 'lite.outer_lr' means nothing here"):
        build.candidate(config(learner="tuned", lite__outer_lr=0.5), where="here")
    assert build.candidate(config(learner="tuned", tuned__outer_lr=0.5), where="here").training.outer_lr == 0.5


def test_the_learners_norm_wins_over_the_common_one() -> None:
    learner = built((1, 8, 8), learner="maml", norm="running", maml__norm="group")
    assert {m.mode for m in learner.modules() if hasattr(m, "mode")} == {"group"}


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        (
            {"learner": ["prototypical"], "prototypical__first_order": [True]},
            "'prototypical.first_order' is not an option",
        ),
        ({"learner": ["maml"], "maml__transduction": ["knn"]}, "'maml.transduction' is not an option"),
        ({"backbone": ["vit"], "vit__patch": [4, 16]}, "vit.patch = 16"),
        ({"backbone": ["vit"], "norm": ["group"]}, "vit has no option 'norm'"),
        ({"learner": ["pretrain"], "attack_epsilon": [0.0, 0.03]}, "pretrain is not trained on episodes"),
        ({"learner": ["maml"], "maml__inner_steps": [3, 0]}, "maml.inner_steps = 0"),
        ({"label_smoothing": [0.0, 1.0]}, "label_smoothing = 1.0"),
        ({"learner": ["maml"], "conv__width": ["wide"]}, "conv"),
        ({"optimizer": ["adma"]}, "optimizer"),
        ({"augment": ["crops"]}, "augment"),
    ],
)
def test_what_cannot_be_is_found_when_the_space_is_read(tmp_path: Path, parameters: dict[str, Any], says: str) -> None:
    with pytest.raises(SpaceError, match=says):
        check_space(space(tmp_path, **parameters), (1, 8, 8))


def test_the_cases_of_a_space_show_every_choice_and_both_ends() -> None:
    chosen = load_space("few_shot")
    seen: dict[str, set[Any]] = {}
    for case in cases(chosen):
        chosen.check(case, where="case")
        for name, value in case.items():
            seen.setdefault(name, set()).add(value)
    for parameter in chosen:
        assert len(seen[parameter.name]) >= len(getattr(parameter, "choices", (0, 1))), parameter.name


def test_a_name_that_means_nothing_gets_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean .conv\.width."):
        build.candidate(config(learner="maml", conv__widht=32), where="recipe")


def test_a_candidate_holds_every_option_and_leaves_out_what_is_of_other_parts() -> None:
    common = {"outer_lr": 0.2, "train_way": 7, "label_smoothing": 0.1, "gradient_penalty": 0.5}
    own = {"ridge__regularization": 2.0, "conv__width": 8, "svm__penalty": 0.3}
    values = config(learner="ridge", ridge__norm="group", **own, **common)
    found = build.candidate(values)
    assert (found.learner.name, found.learner.options) == ("ridge", {"regularization": 2.0})
    assert (found.backbone.name, found.backbone.options) == ("conv", {"norm": "group", "width": 8})
    assert (found.training.outer_lr, found.sampling.train_way) == (0.2, 7)
    assert (found.loss.label_smoothing, found.objective.gradient_penalty) == (0.1, 0.5)
    with pytest.raises(ConfigError, match=r"recipe: 'svm\.penalty' means nothing here"):
        build.candidate(values, where="recipe")


def test_what_excludes_each_other_is_refused_before_anything_is_built() -> None:
    with pytest.raises(ConfigError, match="pretrain is not trained on episodes"):
        build.candidate(config(learner="pretrain", attack_epsilon=0.03))
    with pytest.raises(ConfigError, match="no image says which way is up"):
        build.candidate(config(learner="pretrain", pretrain__rotation_weight=0.5, rotations=True))


OUTSIDE = '''
from torch.nn import functional as F
from autometa.learning.learner import EpisodicLearner, embed

class Nearest(EpisodicLearner):
    """Soft nearest neighbour."""

    def __init__(self, backbone, setting, *, temperature: float = 0.1):
        super().__init__(backbone, setting)
        self.temperature = temperature

    def scores(self, episodes):
        support, query = (F.normalize(f, dim=-1) for f in embed(self.backbone, episodes))
        similar = query @ support.mT / self.temperature
        return similar.unflatten(-1, (episodes.way, -1)).logsumexp(-1)
'''


def test_another_package_adds_a_learner_that_a_search_uses(tmp_path: Path) -> None:
    """Installed as any package would be: a module and the entry point in its metadata."""
    site = tmp_path / "site"
    (site / "others-1.0.dist-info").mkdir(parents=True)
    (site / "others.py").write_text(OUTSIDE)
    (site / "others-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (site / "others-1.0.dist-info" / "entry_points.txt").write_text("[autometa.learners]\nnearest = others:Nearest\n")
    (tmp_path / "own.toml").write_text(
        'name = "own"\n[parameters.learner]\nchoices = ["nearest"]\n'
        '[parameters."nearest.temperature"]\nlow = 0.05\nhigh = 0.5\n[parameters."conv.width"]\nchoices = [4]\n'
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    command = search_digits("--space", "own.toml", "--trials", "2", "--budget", "20")
    done = subprocess.run([*command, "--workers", "1"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "nearest" in done.stdout
    assert "winner" in done.stdout


@pytest.mark.parametrize(
    ("earlier", "budget", "expected"),
    [
        ({"maml.multi_step_loss": 300}, Budget(steps=2000), {"multi_step_loss": 0.15}),
        ({"maml.multi_step_loss": 300}, Budget(steps=200), {"multi_step_loss": 1.0}),
        ({"maml.multi_step_loss": 300}, Budget(seconds=9.0), {"multi_step_loss": 1.0}),
        ({"maml.multi_step_loss": 0}, Budget(steps=200), {"multi_step_loss": 0}),
        ({"maml.multi_step_loss": 0.4}, Budget(steps=200), {"multi_step_loss": 0.4}),
        ({"maml.first_order_steps": 50}, Budget(steps=200), {"first_order_share": 0.25}),
        ({"maml.first_order_steps": 0}, Budget(seconds=9.0), {"first_order_share": 0.0}),
    ],
)
def test_steps_of_earlier_recipes_become_parts_of_training(
    earlier: dict[str, Scalar], budget: Budget, expected: dict[str, Scalar]
) -> None:
    values = TrialConfig(values={"learner": "maml", **earlier})
    assert build.candidate(values, budget=budget).learner.options == expected
