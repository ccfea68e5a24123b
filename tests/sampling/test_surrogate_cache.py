"""Fitted surrogates on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import FloatDistribution
from threadpoolctl import threadpool_info

from autometa.past import PastReport, PastStudy, PastTrial
from autometa.sampling import surrogate_cache
from autometa.sampling.encoding import Domain
from autometa.sampling.threads import one_thread

DOMAIN = Domain({"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)})


def study(name: str, shift: float = 0.0) -> PastStudy:
    generator = np.random.default_rng(3)
    values = [{"x": float(generator.random()), "y": float(generator.random())} for _ in range(40)]
    curves = [(PastReport(1, -((v["x"] - 0.3 - shift) ** 2) - v["y"], 1.0 + v["x"]),) for v in values]
    return PastStudy(name, tuple(PastTrial(v, c) for v, c in zip(values, curves, strict=True)))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AUTOMETA_CACHE", str(tmp_path))
    return tmp_path / "priors"


def test_what_was_fitted_is_read_and_predicts_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = surrogate_cache.fit_or_load(DOMAIN, [study("a"), study("b", 0.2)])
    monkeypatch.setattr(surrogate_cache, "fit_surrogates", lambda *_: pytest.fail("fitted again"))
    second, dropped = surrogate_cache.fit_or_load(DOMAIN, [study("a"), study("b", 0.2)])
    assert first is not None
    assert second is not None
    rows = np.random.default_rng(0).random((5, 4))
    assert np.array_equal(first.predict(rows), second.predict(rows))
    assert second.names == ["a", "b"]
    assert np.array_equal(first.studies[1].scores, second.studies[1].scores)
    assert dropped == {}


def test_other_content_is_fitted_anew(folder: Path) -> None:
    surrogate_cache.fit_or_load(DOMAIN, [study("a")])
    surrogate_cache.fit_or_load(DOMAIN, [study("a", 0.1)])
    surrogate_cache.fit_or_load(Domain({"x": FloatDistribution(0, 2)}), [study("a")])
    assert len(list(folder.glob("*.npz"))) == 3


def test_that_nothing_is_informative_is_kept_too(folder: Path) -> None:
    other = PastStudy("other", (PastTrial({"z": 1.0}, (PastReport(1, 1.0),)),))
    assert surrogate_cache.fit_or_load(DOMAIN, [other])[0] is None
    again, dropped = surrogate_cache.fit_or_load(DOMAIN, [other])
    assert again is None
    assert dropped == {"other": "it has no parameter in common"}


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a zip", b"\x80\x04."])
def test_a_damaged_file_is_fitted_anew(folder: Path, damage: bytes) -> None:
    surrogate_cache.fit_or_load(DOMAIN, [study("a")])
    file = next(folder.glob("*.npz"))
    file.write_bytes(damage)
    found, _ = surrogate_cache.fit_or_load(DOMAIN, [study("a")])
    assert found is not None
    assert file.read_bytes() != damage


def test_linear_algebra_has_one_thread_inside_and_what_it_had_after() -> None:
    def threads() -> list[int]:
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    before = threads()
    with one_thread():
        assert set(threads()) == {1}
    assert threads() == before
