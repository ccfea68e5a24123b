"""Rows of features are computed once, whoever asks, and survive whatever happens to the process that computes them."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from autometa.data import cache
from autometa.data.feature_table import FORMAT, Compute, FeatureTable
from autometa.errors import DataError, OutOfTimeError

IMAGES = np.arange(10, 50, dtype=np.uint8).reshape(40, 1, 1, 1)


def table(key: str, compute: Compute) -> FeatureTable:
    return FeatureTable(key, IMAGES, 3, compute)


def rows(images: np.ndarray) -> np.ndarray:
    return images.reshape(-1, 1).astype(np.float32) * [1, 2, 3]


def test_only_rows_that_are_wanted_are_computed_and_each_once() -> None:
    asked: list[int] = []

    def compute(images: np.ndarray) -> np.ndarray:
        asked.extend(images.ravel().tolist())
        return rows(images)

    first = table("once", compute)
    wanted = np.array([5, 39, 5, 0])
    np.testing.assert_array_equal(first[wanted], rows(IMAGES[wanted]))
    assert sorted(asked) == [10, 15, 49]
    assert first.known == 3
    again = table("once", compute)
    np.testing.assert_array_equal(again[np.arange(6)], rows(IMAGES[:6]))
    assert sorted(asked) == [10, 11, 12, 13, 14, 15, 49]
    assert first.seconds > 0
    assert again.rows_missing(np.arange(6)) == 0


def test_two_that_want_the_same_rows_share_the_work() -> None:
    computed: list[tuple[str, int]] = []

    def slowly(images: np.ndarray) -> np.ndarray:
        time.sleep(0.01)
        computed.extend((threading.current_thread().name, int(i)) for i in images.ravel())
        return rows(images)

    found: dict[str, np.ndarray] = {}

    def ask() -> None:
        found[threading.current_thread().name] = table("shared", slowly)[np.arange(40)]

    workers = [threading.Thread(target=ask, name=name) for name in ("a", "b")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert sorted(image for _, image in computed) == list(range(10, 50))
    assert {name for name, _ in computed} == {"a", "b"}
    for name in ("a", "b"):
        np.testing.assert_array_equal(found[name], rows(IMAGES))


def test_what_was_computed_before_a_failure_is_kept() -> None:
    def fails_at_30(images: np.ndarray) -> np.ndarray:
        if (images == 30).any():
            raise KeyboardInterrupt
        return rows(images)

    with pytest.raises(KeyboardInterrupt):
        table("failing", fails_at_30)[np.arange(40)]
    after = table("failing", rows)
    assert 0 < after.known < 40
    np.testing.assert_array_equal(after[np.arange(40)], rows(IMAGES))


def test_a_row_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(DataError, match="features broken are not finite"):
        table("broken", lambda images: rows(images) * np.nan)[np.array([1])]


def test_a_damaged_table_is_one_line() -> None:
    table("damaged", rows)
    folder = next(Path(cache.root(), "features").glob("damaged-v*[0-9]"))
    for content in (b"cut", b""):
        (folder / "rows.npy").write_bytes(content)
        with pytest.raises(DataError, match=r"damaged-v\d+ is damaged .*; delete it, and it is made again"):
            table("damaged", rows)


def test_a_table_takes_the_space_of_its_rows_alone() -> None:
    images = np.zeros((4000, 1, 1, 1), np.uint8)
    wide = FeatureTable("wide", images, 5000, lambda some: np.ones((len(some), 5000)))
    file = cache.root() / "features" / f"wide-v{FORMAT}" / "rows.npy"
    assert file.stat().st_size > 4000 * 5000 * 2
    assert (wide[np.array([7, 3999])] == 1).all()
    assert file.stat().st_blocks * 512 < 100 * 5000 * 2


def test_a_disk_that_is_full_is_one_line_and_says_nothing_of_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    here = table("full", rows)
    assert len(here[np.arange(4)]) == 4

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"cannot write to the cache .*: No space left on device; set AUTOMETA_CACHE"):
        here[np.arange(8)]
    assert here.known == 4
    monkeypatch.undo()
    assert here[np.arange(8)][:, 0].tolist() == list(range(10, 18))


def test_rows_that_were_computed_before_the_time_was_over_are_kept() -> None:
    stopped = table("stopped", rows)
    stopped.stop = lambda: stopped.known >= 15  # whole parts, of five rows each
    with pytest.raises(OutOfTimeError, match="features stopped"):
        stopped[np.arange(40)]
    assert stopped.known == 15
    # Whoever goes on finds these, and no lock.
    np.testing.assert_array_equal(table("stopped", rows)[np.arange(40)], rows(IMAGES))
