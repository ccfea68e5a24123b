"""Choosing the next configuration: candidates, the first batch as a portfolio, then expected improvement.

It knows past studies and the target's trials as matrices, and nothing of Optuna's studies.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from autometa.records import Scalar
from autometa.sampling.encoding import Domain, Values
from autometa.sampling.feasibility import Feasibility, feasibility
from autometa.sampling.kernel import Kernel
from autometa.sampling.kernel_cache import CrossKernelCache, KernelCache, PredictionCache
from autometa.sampling.posterior import Observations, Posterior, hypothesis_weights
from autometa.sampling.scores import Results
from autometa.sampling.surrogates import Surrogates
from autometa.sampling.threads import one_thread

_RANDOM, _BESTS_EACH, _MOST_BESTS = 1500, 3, 300
_MOST_PAST = 1000
# The local search for the greatest expected improvement: starts, neighbours of each, width by round.
_STARTS, _EACH, _WIDTHS = 6, 30, (0.15, 0.075, 0.04, 0.02)
_AROUND_BEST = 60
# Another pick of a family (a value of the parameter most others depend on) is worth this much of a first one.
_SAME_FAMILY = 0.7
_TIE = 1e-3
_NEW = 0.1  # share of results that must be new, or gone, before the residual is fitted again
_REPEATED = -1.0  # worth of a configuration that was tried: less than any other, and more than none


@dataclass(frozen=True)
class _Pool:
    """Candidates: codes [C, P], encoded [C, D], predicted by past studies [C, S], and a key each."""

    codes: np.ndarray
    rows: np.ndarray
    predicted: np.ndarray
    keys: Sequence[bytes]
    correlations: CrossKernelCache


@dataclass(frozen=True)
class Proposal:
    """A configuration, and why it was chosen, for people."""

    values: Mapping[str, Scalar]
    why: str


class Proposer:
    """Proposes configurations of a target study.

    Args:
        surrogates: of past studies, over the target's domain.
        start: log weight of each past study before any result, such as by similarity of data sets; [S].
        cost_aware: prefer improvement a second, where past studies noted seconds.
    """

    def __init__(
        self, surrogates: Surrogates, *, start: np.ndarray | None = None, cost_aware: bool = False, seed: int = 0
    ) -> None:
        self.surrogates = surrogates
        self._start = np.zeros(len(surrogates.studies)) if start is None else start
        self._cost_aware = cost_aware and surrogates.cost is not None
        self._seed = seed
        self._encoded, self._gram = PredictionCache(surrogates), KernelCache()
        self._residual: tuple[set[bytes], Kernel | None] = (set(), None)
        self.probabilities = np.append(np.exp(self._start) / np.exp(self._start).sum(), 0.0)

    @property
    def domain(self) -> Domain:
        """Of the target."""
        return self.surrogates.domain

    def propose(self, codes: np.ndarray, results: Results, *, number: int, fixed: Values | None = None) -> Proposal:
        """The next configuration after trials of these codes [n, P] and results; the same for the same arguments.

        Values that are `fixed` it has, and the best others for them.
        """
        with one_thread():
            return self._propose(codes, results, number, self.domain.codes([fixed or {}])[0])

    def _propose(self, codes: np.ndarray, results: Results, number: int, fixed: np.ndarray) -> Proposal:
        generator = np.random.default_rng([self._seed, number])
        seen = Observations(*self._encoded(codes), results)
        self.probabilities = hypothesis_weights(seen, self._start, generator)
        if not seen.shown.any():
            return self._from_portfolio(codes, seen, fixed)
        posterior = self._posterior(seen.latest_and_best())
        likely = feasibility(seen.rows, results.constraints)
        best = self._search(codes, posterior, results, generator, fixed, likely)
        return Proposal(self.domain.values(best), self._reasons())

    def portfolio(self, size: int) -> list[Proposal]:
        """The first batch: past configurations that complement each other, best first; fewer if there are fewer."""
        picks: list[Proposal] = []
        for _ in range(min(size, len(self._past_bests[0]))):
            nothing = np.full((len(picks), 1), np.nan)
            codes = self.domain.codes([p.values for p in picks])
            picks.append(self.propose(codes, Results(nothing, nothing), number=len(picks)))
        return picks

    def _from_portfolio(self, codes: np.ndarray, seen: Observations, fixed: np.ndarray) -> Proposal:
        """The past configuration that adds most to those already running, over all past studies by weight."""
        candidates, known, own = self._past_bests
        if not np.isnan(fixed).all():
            candidates = _with(fixed, candidates)
            known = self.surrogates.predict(self.domain.encode(candidates))
        reached = seen.predicted.max(0) if len(codes) else known.mean(0)
        weights = self.probabilities[:-1]
        # Where nothing adds to what runs already, what is good on average comes next.
        gain = np.maximum(known - reached, 0) @ weights + _TIE * (known - known.min()) @ weights
        repeats = _among(set(self.domain.keys(codes)), self.domain.keys(candidates))
        gain = np.where(repeats, _REPEATED, gain * self._novelty(candidates, codes))
        best = int(np.argmax(gain))
        study = self.surrogates.names[own[best]]
        return Proposal(self.domain.values(candidates[best]), f"portfolio {len(codes) + 1}: from {study}")

    def _search(
        self,
        codes: np.ndarray,
        posterior: Posterior,
        results: Results,
        generator: np.random.Generator,
        fixed: np.ndarray,
        likely: Feasibility,
    ) -> np.ndarray:
        """Codes [P] of the greatest expected improvement found from the pool and the best so far."""
        tried = set(self.domain.keys(codes))
        kept, kept_values = self._best_of_pool(tried, posterior, fixed, likely)
        best = _with(fixed, self._best_so_far(codes, results, generator))
        kept, kept_values = np.concatenate([kept, best]), np.concatenate([kept_values, np.full(len(best), _REPEATED)])
        for width in () if self.surrogates.kernel.is_rough else _WIDTHS:
            moved = _with(fixed, self.domain.neighbours(kept, generator, _EACH, width))
            rows, keys = self.domain.encode_with_keys(moved)
            worth = self._worth(tried, keys, rows, likely)
            least = np.sort(kept_values)[-_STARTS:][0]
            correlations = posterior.residual(posterior.rows, rows)
            chosen, values = posterior.best_candidates(
                _STARTS, self.surrogates.predict(rows), correlations, worth, above=least
            )
            kept, kept_values = np.concatenate([kept, moved[chosen]]), np.concatenate([kept_values, values])
            order = np.argsort(-kept_values)[:_STARTS]
            kept, kept_values = kept[order], kept_values[order]
        first: np.ndarray = kept[0]
        return first

    def _best_of_pool(
        self, tried: Container[bytes], posterior: Posterior, fixed: np.ndarray, likely: Feasibility
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes [starts, P] of the greatest expected improvement, and that."""
        pool = self._pool if np.isnan(fixed).all() else self._pool_of(_with(fixed, self._pool.codes))
        worth = self._worth(tried, pool.keys, pool.rows, likely)
        correlations = pool.correlations(posterior.residual, posterior.rows)
        chosen, values = posterior.best_candidates(_STARTS, pool.predicted, correlations, worth)
        return pool.codes[chosen], values

    def _posterior(self, seen: Observations) -> Posterior:
        """The residual is fitted anew only when a tenth of what it is fitted to is new, or gone."""
        shown = {row.tobytes() for row in seen.rows[seen.shown]}
        known, residual = self._residual
        if max(len(shown - known), len(known - shown)) >= _NEW * len(known):
            residual = None
        posterior = Posterior(self.surrogates.kernel, seen, self.probabilities, residual, gram=self._gram)
        if residual is None:
            self._residual = (shown, posterior.residual)
        return posterior

    def _best_so_far(self, codes: np.ndarray, results: Results, generator: np.random.Generator) -> np.ndarray:
        furthest = np.where(results.last >= 0, results.last, -1)
        value = np.where(furthest >= 0, results.values[np.arange(len(codes)), furthest], -np.inf)
        order = np.lexsort((-value, -furthest, ~results.feasible))[:_BESTS_EACH]
        return self.domain.imputed(codes[order], generator)

    def _worth(
        self, tried: Container[bytes], keys: Sequence[bytes], rows: np.ndarray, likely: Feasibility
    ) -> np.ndarray:
        """What an improvement by each candidate [C] is worth: less where it costs more or may be infeasible.

        Nothing where it was tried.
        """
        worth = likely(rows)
        if self._cost_aware and self.surrogates.cost is not None:
            worth = worth * np.exp(-self.surrogates.features(rows) @ self.surrogates.cost)
        return np.where(_among(tried, keys), _REPEATED, worth)

    def _novelty(self, candidates: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Less than 1 for candidates [C] of a family that is already among the trials."""
        found = np.ones(len(candidates))
        family = self._family
        if family is not None:
            for value in codes[:, family]:
                found[candidates[:, family] == value] *= _SAME_FAMILY
        return found

    @cached_property
    def _family(self) -> int | None:
        """The category most other parameters depend on, if any does."""
        names = self.domain.names
        children = [0] * len(names)
        for conditions in self.domain.conditions.values():
            for condition in conditions:
                children[names.index(condition.parent)] += bool(self.domain.is_category[names.index(condition.parent)])
        return int(np.argmax(children)) if any(children) else None

    @cached_property
    def _past_bests(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The best few configurations of each past study, their scores under every study [C, S], and their own [C].

        The score under their own study is what they really showed.
        """
        generator = np.random.default_rng([self._seed, 1])
        studies = self.surrogates.studies
        each = max(1, min(_BESTS_EACH, _MOST_BESTS // len(studies)))
        chosen = [np.argsort(-study.scores)[:each] for study in studies]
        codes = np.concatenate([study.codes[best] for study, best in zip(studies, chosen, strict=True)])
        own = np.repeat(np.arange(len(studies)), [len(best) for best in chosen])
        imputed = self.domain.imputed(codes, generator)
        scores = self.surrogates.predict(self.domain.encode(imputed))
        shown = [study.scores[best] for study, best in zip(studies, chosen, strict=True)]
        scores[np.arange(len(own)), own] = np.concatenate(shown)
        return imputed, scores, own

    @cached_property
    def _pool(self) -> _Pool:
        """Candidates that stay the same over a study."""
        generator = np.random.default_rng([self._seed, 0])
        bests = self._past_bests[0]
        near = self.domain.neighbours(bests, generator, 1, 0.1)
        parts = [self.domain.sample(generator, _RANDOM), bests, near]
        if self.surrogates.kernel.is_rough:
            parts.append(self._better_half(generator))
        return self._pool_of(np.concatenate(parts))

    def _pool_of(self, codes: np.ndarray) -> _Pool:
        rows, keys = self.domain.encode_with_keys(codes)
        return _Pool(codes, rows, self.surrogates.predict(rows), keys, CrossKernelCache(rows))

    def _better_half(self, generator: np.random.Generator) -> np.ndarray:
        """Of past studies' configurations, drawn: where little can be told, what was really tried is the safer bet."""
        each = max(1, _MOST_PAST // len(self.surrogates.studies))
        halves = [s.codes[np.argsort(-s.scores)[: (len(s.scores) + 1) // 2]] for s in self.surrogates.studies]
        drawn = [half[generator.permutation(len(half))[:each]] for half in halves]
        return self.domain.imputed(np.concatenate(drawn), generator)

    def _reasons(self) -> str:
        """The past studies that speak for it, by weight."""
        names = [*self.surrogates.names, "none"]
        order = np.argsort(-self.probabilities)[:3]
        parts = [f"{names[i]} {self.probabilities[i]:.2f}" for i in order if self.probabilities[i] >= 0.05]
        return "prior: " + (", ".join(parts) or "many studies")


def _among(tried: Container[bytes], keys: Sequence[bytes]) -> np.ndarray:
    """Which configurations [C] are among the trials already, by key."""
    return np.array([key in tried for key in keys])


def _with(fixed: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Codes [n, P] with the fixed ones [P] in place of theirs, where these are not NaN."""
    return np.where(np.isnan(fixed), codes, fixed)
