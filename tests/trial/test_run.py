"""One trial from its job: other train classes, rotated classes, facts, and accuracy under attack."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from autometa.data.dataset import SPLITS
from autometa.data.episodes import EpisodeBatch, fixed_episodes
from autometa.data.image_pool import ImagePool
from autometa.errors import ConfigError, DataError
from autometa.learning.checkpoint_facts import FACTS
from autometa.learning.evaluation import evaluate
from autometa.learning.ops import native
from autometa.records import Accuracy, Budget, EpisodeSpec, RungReport, Scalar, TrialConfig
from autometa.trial.build import LEARNERS
from autometa.trial.evaluate import evaluate_checkpoint
from autometa.trial.job import DatasetRef, Job
from autometa.trial.opened import open_dataset
from autometa.trial.recipe import Recipe
from autometa.trial.run import prepare, run
from autometa.trial.train import train


def job(folder: Path, *, dataset: str = "digits", pretrain: str | None = None, **values: Scalar) -> Job:
    size = 16 if dataset != "digits" else None
    return Job(
        config=TrialConfig(values={"conv.width": 8, **{k.replace("__", "."): v for k, v in values.items()}}),
        dataset=DatasetRef(name=dataset, image_size=size),
        pretrain=DatasetRef(name=pretrain, image_size=16) if pretrain else None,
        episodes=EpisodeSpec(way=2, shot=1, query=2),
        budget=Budget(steps=3, rungs=1),
        seed=4,
        folder=str(folder),
        validation_episodes=20,
    )


def photographs(root: Path, classes: int, seed: int, prefix: str = "class") -> str:
    generator = np.random.default_rng(seed)
    for c in range(classes):
        (root / f"{prefix}{c}").mkdir(parents=True)
        for i in range(4):
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"{prefix}{c}" / f"{i}.png")
    return str(root)


def test_a_trial_reports_its_size_and_operations(tmp_path: Path) -> None:
    record = run(job(tmp_path / "m", conv__depth=1, norm="none"))
    # one 3 × 3 convolution of 1 to 8 channels with bias over 8 × 8 pixels, scale and shift
    assert record.facts["parameters"] == 1 * 8 * 9 + 8 + 2 * 8
    assert record.facts["flops"] == 2 * 8 * 9 * 64
    assert record.facts["transductive"] is False


@pytest.mark.skipif(not native.is_available(torch.float32), reason="no C compiler here")
@pytest.mark.parametrize("learner", ["maml", "prototypical"])
def test_a_training_is_as_good_without_the_kernels(
    learner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def accuracy(folder: str) -> Accuracy:
        # Not deeper: what normalises maps of one pixel of two images divides by next to nothing.
        trained = job(tmp_path / folder, learner=learner, maml__inner_steps=2, conv__width=16, conv__depth=2)
        trained = trained.model_copy(update={"budget": Budget(steps=60, rungs=1), "validation_episodes": 100})
        last = run(trained).last
        assert last is not None
        return last.accuracy

    with_them = accuracy("with")
    monkeypatch.setenv("AUTOMETA_KERNELS", "off")
    native._library.cache_clear()
    without = accuracy("without")
    monkeypatch.undo()
    native._library.cache_clear()
    assert with_them.mean > 0.6  # chance is a half: both have learned something
    assert abs(with_them.mean - without.mean) <= math.hypot(with_them.half_width, without.half_width)


@pytest.mark.parametrize("learner", [n for n, one in LEARNERS.items() if one.is_trained and one.trains_on_episodes])
def test_training_episodes_may_have_another_shot_than_those_of_the_evaluation(learner: str, tmp_path: Path) -> None:
    """MetaOptNet trains on 15 shots, whatever it is tested on (Lee et al. 2019)."""
    how = {"learner": learner, "backbone": "conv", "norm": "group", "conv__depth": 2, "train_shot": 5}
    training = prepare(job(tmp_path / "m", **how))
    episodes = training.source.episodes()
    assert (episodes.way, episodes.shot, episodes.query) == (2, 5, 2)
    list(training.rungs())
    evaluated = training.curve[-1].accuracy
    again = evaluate(training.learner, one_shot_episodes(), seed=0)
    assert again.mean == evaluated.mean  # on one-shot episodes


def one_shot_episodes() -> list[EpisodeBatch]:
    pool = ImagePool(open_dataset(DatasetRef(name="digits")), "val")
    return list(fixed_episodes(pool, EpisodeSpec(way=2, shot=1, query=2), count=20, seed=0, batch=20))


def test_without_a_training_shot_episodes_have_that_of_the_evaluation(tmp_path: Path) -> None:
    plain, zero = (prepare(job(tmp_path / "m", **how)).source.episodes() for how in ({}, {"train_shot": 0}))
    assert plain.shot == 1
    assert torch.equal(plain.support_x, zero.support_x)


def test_a_training_shot_for_which_classes_are_too_small_is_refused(tmp_path: Path) -> None:
    folder = photographs(tmp_path / "photos", classes=9, seed=1)  # of four images each
    prepare(job(tmp_path / "m", dataset=folder, train_shot=2))
    with pytest.raises(DataError, match=r"train_shot = 3: with 2 query images it takes 5 .* has 4: use at most 2$"):
        prepare(job(tmp_path / "m", dataset=folder, train_shot=3))
    with pytest.raises(ConfigError, match=r"train_shot = -1: it must be at least 0"):
        prepare(job(tmp_path / "m", train_shot=-1))


def test_training_draws_from_so_many_images_of_each_class_spread_over_all(tmp_path: Path) -> None:
    limited, whole = (prepare(job(tmp_path / "m", train_images=n)).source.pool for n in (7, 0))
    assert set(limited.counts.tolist()) == {7}
    (counts, chosen), (most, every) = (pool.tables(torch.device("cpu")) for pool in (limited, whole))
    for number, count in enumerate(most.tolist()):
        of_class = every[number, :count].tolist()
        places = [of_class.index(image) for image in chosen[number, : counts[number]].tolist()]
        assert places == sorted(set(places))
        assert places[0] == 0
        assert places[-1] > 0.8 * count
    with pytest.raises(ConfigError, match=r"train_images = 2: a training episode has 1 \+ 2 images of a class"):
        prepare(job(tmp_path / "m", train_images=2))
    with pytest.raises(ConfigError, match=r"train_images = -1: it must be at least 0, for all"):
        prepare(job(tmp_path / "m", train_images=-1))


def test_options_for_a_gpu_are_no_obstacle_without_one(tmp_path: Path) -> None:
    options: dict[str, Scalar] = {"bfloat16": True, "maml__checkpoint_inner_steps": True}
    assert run(job(tmp_path / "m", learner="maml", norm="support", **options)).state == "complete"


def test_a_map_of_one_pixel_is_no_obstacle(tmp_path: Path) -> None:
    assert run(job(tmp_path / "m", conv__depth=4, norm="support")).state == "complete"


def test_train_classes_that_are_tested_are_refused(tmp_path: Path) -> None:
    same = photographs(tmp_path / "same", 10, 1)
    for seed, split in enumerate(SPLITS, 2):  # by hash alone a class is mostly in the same split of both
        photographs(tmp_path / "other" / split, 10, seed, prefix="class" if split == "train" else split)
    other = str(tmp_path / "other")
    with pytest.raises(DataError, match=r"other trains on .* by which same is validated or tested"):
        prepare(job(tmp_path / "m", dataset=same, pretrain=other))


def test_another_data_set_gives_the_train_classes(tmp_path: Path) -> None:
    target = photographs(tmp_path / "target", 10, 1)
    other = photographs(tmp_path / "other", 30, 2, prefix="other")
    asked = job(tmp_path / "m", dataset=target, pretrain=other, learner="pretrain", pretrain__batch_size=8)
    assert prepare(asked).learner.setting.train_classes == len(
        open_dataset(asked.pretrain or asked.dataset).splits["train"]
    )
    assert run(asked).state == "complete"
    for folder in (tmp_path / "other").iterdir():
        for file in folder.iterdir():
            file.unlink()
    accuracy = evaluate_checkpoint(tmp_path / "m", episodes=10)  # the data of pre-training is not needed any more
    assert accuracy.episodes == 10


def test_rotations_make_four_classes_of_one(tmp_path: Path) -> None:
    photos = photographs(tmp_path / "photos", classes=10, seed=2)
    asked = job(tmp_path / "m", dataset=photos, learner="pretrain", rotations=True, pretrain__batch_size=8)
    training = prepare(asked)
    assert training.learner.setting.train_classes == 4 * 6
    assert run(asked).state == "complete"
    assert evaluate_checkpoint(tmp_path / "m", episodes=10).episodes == 10


@pytest.mark.parametrize("learner", ["pretrain", "prototypical"])
def test_rotated_classes_are_not_rotated_again(tmp_path: Path, learner: str) -> None:
    recipe = Recipe(
        dataset="digits",
        episodes=EpisodeSpec(way=2),
        budget=Budget(steps=1),
        config={"learner": learner, "rotations": True, "conv.width": 8},
    )
    with pytest.raises(DataError, match=r"rotations = true: the classes of digits are rotations already \(0@0, 0@90\)"):
        train(recipe, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_trial_sees_the_images_that_the_search_did(tmp_path: Path) -> None:
    photos = photographs(tmp_path / "photos", classes=6, seed=5)
    (tmp_path / "photos" / "class2" / "note.png").write_text("not an image")
    asked = job(tmp_path / "m", dataset=photos)
    with pytest.raises(DataError, match=r"1 file cannot be read: class2/note\.png"):
        run(asked)
    ref = asked.dataset.model_copy(update={"skip_unreadable": True})
    assert run(asked.model_copy(update={"dataset": ref})).state == "complete"
    assert evaluate_checkpoint(tmp_path / "m", episodes=10).episodes == 10


def test_accuracy_under_attack_is_lower_and_repeatable(tmp_path: Path) -> None:
    run(job(tmp_path / "m", learner="prototypical", conv__depth=2, norm="group"))
    clean = evaluate_checkpoint(tmp_path / "m", episodes=40)
    robust = evaluate_checkpoint(tmp_path / "m", episodes=40, attack=(0.2, 3))
    assert robust.mean < clean.mean - 0.1
    assert evaluate_checkpoint(tmp_path / "m", episodes=40, attack=(0.2, 3)) == robust


def test_a_candidate_that_does_not_fit_the_memory_is_a_record_with_its_reason(tmp_path: Path) -> None:
    huge = {"learner": "relation", "relation.hidden": 10**15}
    record = run(job(tmp_path / "m", **huge), number=7)
    assert (record.number, record.state) == (7, "fail")
    assert record.reason is not None
    assert record.reason.startswith("out of memory: ")
    assert record.facts == {"out_of_memory": True}


def test_one_that_grew_too_large_keeps_its_curve(tmp_path: Path) -> None:
    asked = job(tmp_path / "m", norm="group").model_copy(update={"budget": Budget(steps=4, rungs=2)})

    def fill_memory(report: RungReport) -> None:
        torch.empty(2**55)

    record = run(asked, on_rung=fill_memory)
    assert record.state == "fail"
    assert [report.rung for report in record.curve] == [1]


def test_an_earlier_checkpoint_of_maml_is_continued_and_evaluated(tmp_path: Path) -> None:
    """It counts the outer steps, and its job says over how many of them the loss is annealed."""
    values: dict[str, Scalar] = {"learner": "maml", "norm": "support", "maml.inner_steps": 2, "maml.multi_step_loss": 3}
    asked = job(tmp_path / "m", **values).model_copy(update={"budget": Budget(steps=6, rungs=3)})

    def die(report: RungReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(asked, on_rung=die)
    facts = json.loads((tmp_path / "m" / FACTS).read_text())
    tensors = tmp_path / "m" / facts["tensors"]
    save_file(load_file(tensors) | {"learner/outer_steps": torch.tensor(2)}, tensors)
    facts["sha256"] = hashlib.sha256(tensors.read_bytes()).hexdigest()
    (tmp_path / "m" / FACTS).write_text(json.dumps(facts))
    assert prepare(asked).learner.phases == [0.5]
    assert [report.steps for report in run(asked).curve] == [2, 4, 6]
    assert evaluate_checkpoint(tmp_path / "m", episodes=4).episodes == 4
