"""`Predictor`: new classes by a few images, in scikit-learn's style."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

import autometa
from autometa.data import image_folder
from autometa.deployment.trained import CALIBRATIONS
from autometa.errors import AutometaError, ConfigError, DataError
from autometa.trial.model import fit_ensemble, said_in_views
from autometa.trial.model_files import job_of
from tests.deployment.photos import train_model, write_photos


def truth(files: list[Path]) -> np.ndarray:
    return np.array([file.parent.name for file in files])


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def test_new_classes_are_named_without_training(model: Path, support: Path, inbox: Path) -> None:
    predictor = autometa.Predictor(model).fit(support)
    files = files_of(inbox)
    assert predictor.classes_.tolist() == ["apple", "brick", "cloud", "dune"]
    assert predictor.shots_.tolist() == [2, 7, 4, 3]
    assert predictor.score(files, truth(files)) > 0.9
    probabilities = predictor.predict_proba(files)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert (predictor.classes_[probabilities.argmax(1)] == predictor.predict(files)).all()
    assert (predictor.predict(inbox) == predictor.predict(files)).all(), "a folder is its files by name"


def test_it_answers_as_the_learner_does_in_an_episode(model: Path, support: Path, inbox: Path) -> None:
    predictor = autometa.Predictor(model).fit(support)
    learner, taken = predictor.trained_.learner, predictor.trained_.taken
    read = [np.asarray(Image.open(f)) for f in files_of(inbox)]
    pixels = torch.from_numpy(np.stack(read)).permute(0, 3, 1, 2).float() / 255
    query = (pixels - torch.tensor(taken.mean)[:, None, None]) / torch.tensor(taken.std)[:, None, None]
    known = [np.asarray(Image.open(f)) for f in files_of(support)]
    pixels = torch.from_numpy(np.stack(known)).permute(0, 3, 1, 2).float() / 255
    shown = (pixels - torch.tensor(taken.mean)[:, None, None]) / torch.tensor(taken.std)[:, None, None]
    with torch.no_grad():
        features, asked = learner.backbone(shown), learner.backbone(query)
    means = torch.stack([part.mean(0) for part in features.split([2, 7, 4, 3])])
    distances = torch.cdist(asked, means).square() / (0.1 * features.shape[1] ** 0.5)
    expected = predictor.calibration_.softened(-distances, [2, 7, 4, 3]).softmax(-1)
    np.testing.assert_allclose(predictor.predict_proba(inbox), expected.numpy(), atol=1e-4)


def test_arrays_and_files_are_the_same_images(model: Path, support: Path, inbox: Path) -> None:
    files, known = files_of(inbox), files_of(support)
    by_files = autometa.Predictor(model).fit(known, truth(known))
    pixels = [np.asarray(Image.open(file)) for file in files]
    expected = by_files.predict_proba(files)
    np.testing.assert_array_equal(by_files.predict_proba(np.stack(pixels)), expected)
    np.testing.assert_array_equal(by_files.predict_proba(np.stack(pixels) / 255), expected)
    by_arrays = autometa.Predictor(model).fit([np.asarray(Image.open(f)) for f in known], truth(known))
    np.testing.assert_array_equal(by_arrays.predict_proba(files), expected)


def test_the_order_of_labelled_images_and_how_many_queries_there_are_do_not_matter(
    model: Path, support: Path, inbox: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, files = files_of(support), files_of(inbox)
    expected = autometa.Predictor(model).fit(support).predict_proba(files)
    turned = autometa.Predictor(model).fit(known[::-1], truth(known[::-1]))
    np.testing.assert_allclose(turned.predict_proba(files), expected, atol=1e-6)
    monkeypatch.setattr("autometa.deployment.task._AT_ONCE", 5)
    np.testing.assert_allclose(turned.predict_proba(files), expected, atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        {"learner": "maml", "maml.norm": "support"},
        {"learner": "pretrain", "pretrain.head": "finetune", "pretrain.support_copies": 2},
        {"learner": "reader"},
    ],
)
def test_other_learners_take_more_ways_and_uneven_shots(
    photos: Path, support: Path, inbox: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    trained = train_model(photos, tmp_path / "model", steps=2, **config)
    predictor = autometa.Predictor(trained).fit(support)
    assert predictor.predict_proba(inbox).shape == (48, 4)


def test_a_head_of_fixed_classes_says_so(photos: Path, support: Path, tmp_path: Path) -> None:
    trained = train_model(photos, tmp_path / "model", steps=2, learner="boil")
    with pytest.raises(ConfigError, match="boil: an episode of 4 classes, but its learned head has 3"):
        autometa.Predictor(trained).fit(support)


def test_an_ensemble_predicts_like_a_single_model(
    photos: Path, model: Path, support: Path, inbox: Path, tmp_path: Path
) -> None:
    other = train_model(photos, tmp_path / "other", seed=4)
    how = {"dataset": job_of(model).dataset, "episodes": 20, "seed": 0, "seconds": 60.0, "use_gpu": False}
    said = [said_in_views(member, **how) for member in (model, other)]
    assert len(fit_ensemble([model, other], said, tmp_path / "both")) == 2
    predictor = autometa.Predictor(tmp_path / "both", reject_rate=0.1).fit(support)
    files = files_of(inbox)
    assert (predictor.predict(files) == truth(files)).mean() > 0.75


def test_images_of_other_classes_are_recognised(model: Path, support: Path, inbox: Path, tmp_path: Path) -> None:
    others = write_photos(tmp_path / "others", {"ember": 20, "fjord": 20, "grass": 20}, seed=9)
    predictor = autometa.Predictor(model, reject_rate=0.1, none_label="?").fit(support)
    known, unknown = predictor.predict(inbox) == "?", predictor.predict(others) == "?"
    assert known.mean() < 0.3
    assert unknown.mean() > known.mean() + 0.2
    found = predictor.calibration_.rejection
    assert found.recognised[found.score] == max(found.recognised.values())


def test_what_was_measured_is_kept_with_the_model_and_serves_without_its_data(
    photos: Path, support: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "photos"
    shutil.copytree(photos, moved)
    trained = train_model(moved, tmp_path / "model", steps=3)
    first = autometa.Predictor(trained).fit(support).calibration_
    assert (trained / CALIBRATIONS).is_file()
    shutil.rmtree(moved)
    again = autometa.Predictor(trained).fit(support)
    assert again.calibration_ == first
    with pytest.raises(ConfigError, match=r"reject_rate = 0\.05: the threshold is found on validation images, and"):
        autometa.Predictor(trained, reject_rate=0.05).fit(support)
    (trained / CALIBRATIONS).write_text("{")
    without = autometa.Predictor(trained).fit(support)
    assert without.calibration_ is None
    assert without.predict(support).shape == (16,)


def test_a_calibration_of_other_weights_is_not_used(photos: Path, support: Path, tmp_path: Path) -> None:
    trained = train_model(photos, tmp_path / "model", steps=3)
    first = autometa.Predictor(trained).fit(support).calibration_
    kept = (trained / CALIBRATIONS).read_bytes()
    shutil.rmtree(trained)
    train_model(photos, trained, steps=3, seed=7)
    (trained / CALIBRATIONS).write_bytes(kept)
    assert autometa.Predictor(trained).fit(support).calibration_ != first


def test_what_cannot_be_used_is_one_line(model: Path, support: Path, inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    one = write_photos(tmp_path / "one", {"only": 3})
    bad = write_photos(tmp_path / "bad", {"apple": 2, "brick": 2})
    (bad / "apple" / "torn.png").write_bytes(b"no image")
    predictor = autometa.Predictor(model)
    for error, images, said in [
        (DataError, one, "one class only"),
        (DataError, tmp_path / "empty", "no images in class folders"),
        (DataError, tmp_path / "gone", "no such folder"),
        (DataError, bad, "1 image cannot be read: .*torn.png .not an image."),
    ]:
        with pytest.raises(error, match=said) as raised:
            predictor.fit(images)
        assert "\n" not in str(raised.value)
    with pytest.raises(DataError, match="no images to name there"):
        predictor.fit(support).predict(tmp_path / "empty")
    for folder, said in [(tmp_path / "gone", "no such folder"), (support, "no checkpoint there")]:
        with pytest.raises(AutometaError, match=said):
            autometa.Predictor(folder).fit(support)
    left_out = autometa.Predictor(model, skip_unreadable=True).fit(bad)
    assert left_out.shots_.tolist() == [2, 2]
    assert len(left_out.unreadable_) == 1
    with pytest.raises(ConfigError, match="reject_rate = 1: it must be in"):
        autometa.Predictor(model, reject_rate=1).fit(support)


def test_images_of_other_kinds_are_read_as_those_of_a_folder_are(model: Path, support: Path, tmp_path: Path) -> None:
    """EXIF orientation, transparency, 16 bit and CMYK, each of the same picture."""
    source = Image.open(files_of(support)[4])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90° to the right
    source.rotate(90).save(tmp_path / "turned.tiff", exif=exif)
    layer = source.convert("RGBA")
    layer.save(tmp_path / "layer.png")
    grey = np.asarray(source.convert("L"))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    predictor = autometa.Predictor(model).fit(support)
    expected, turned, opaque = predictor.predict_proba(
        [files_of(support)[4], tmp_path / "turned.tiff", tmp_path / "layer.png"]
    )
    np.testing.assert_allclose(turned, expected, atol=1e-6)
    np.testing.assert_allclose(opaque, expected, atol=1e-6)
    deep, shallow = predictor.predict_proba([tmp_path / "deep.png", tmp_path / "grey.png"])
    np.testing.assert_allclose(deep, shallow, atol=1e-6)


# What of scikit-learn's checks passes. All others hand over tables, where a row of numbers is no image.
APPLIES = (
    "check_estimator_cloneable check_estimator_tags_renamed check_valid_tag_types check_estimator_repr "
    "check_no_attributes_set_in_init check_estimators_unfitted check_do_not_raise_errors_in_init_or_set_params "
    "check_mixin_order check_classifiers_regression_target check_supervised_y_no_nan "
    "check_parameters_default_constructible check_get_params_invariance check_set_params check_fit1d "
    "check_requires_y_none"
)
# They want an error message in words of tables, of features and samples.
IN_WORDS_OF_TABLES = (
    "check_positive_only_tag_during_fit check_complex_data check_estimators_empty_data_messages check_fit2d_1sample "
    "check_estimators_nan_inf check_estimator_sparse_tag check_estimator_sparse_array check_estimator_sparse_matrix "
    "check_classifier_data_not_an_array check_classifiers_one_label check_fit2d_1feature"
)


def test_what_applies_of_scikit_learns_checks_passes(model: Path) -> None:
    results = check_estimator(autometa.Predictor(model), on_fail=None, on_skip=None)
    status = {one["check_name"]: one["status"] for one in results}
    assert [name for name in APPLIES.split() if status.get(name) != "passed"] == []
    failed = {one["check_name"]: str(one["exception"]) for one in results if one["status"] == "failed"}
    other = [name for name, said in failed.items() if "an image is an array" not in said]
    assert set(other) <= set(IN_WORDS_OF_TABLES.split())


def test_it_keeps_scikit_learns_promises_with_images(model: Path, support: Path, inbox: Path) -> None:
    """The checks above that need data, with images in place of tables."""
    known = files_of(support)
    predictor = autometa.Predictor(model)
    with pytest.raises(NotFittedError):
        predictor.predict(known)
    before = predictor.get_params()
    assert predictor.fit(known, truth(known)) is predictor
    assert predictor.get_params() == before
    assert clone(predictor).get_params() == before
    first = predictor.predict_proba(inbox)
    np.testing.assert_allclose(predictor.predict_proba(files_of(inbox)[7:8])[0], first[7], atol=1e-6)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(predictor)).predict_proba(inbox), first)
    np.testing.assert_array_equal(predictor.fit(known, truth(known)).predict_proba(inbox), first)
    numbers = np.unique(truth(known), return_inverse=True)[1] * 10
    assert set(predictor.fit(known, numbers).predict(inbox)) <= {0, 10, 20, 30}
    for images, labels, said in [
        (known, None, "requires y"),
        (known, truth(known)[:-1], "one label per image"),
        (np.zeros((4, 9)), [0, 0, 1, 1], "an image is an array"),
        (np.full((4, 9, 9), 2.0), [0, 0, 1, 1], "floats in"),
        (np.full((4, 9, 9), np.nan), [0, 0, 1, 1], "floats in"),
        (support, truth(known), "give no y"),
        (known, np.linspace(0, 1, len(known)), "Unknown label type"),
    ]:
        with pytest.raises(ValueError, match=said):
            predictor.fit(images, labels)


def test_a_file_that_another_program_hides_is_no_query(inbox: Path, tmp_path: Path) -> None:
    shutil.copytree(inbox, tmp_path / "inbox")
    (tmp_path / "inbox" / ".thumbnail.png").write_bytes(b"")
    assert len(image_folder.images_in(tmp_path / "inbox")) == 48
