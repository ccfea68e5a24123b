"""What the prior costs: fitting many past studies once, reading the fit back, and each suggestion after it.

    python benchmarks/prior_scale.py            # 60 and 500 past studies of 500 trials, over the space few_shot

Past studies are random configurations of a real, conditional space, each with a smooth function of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from typing import Any

import numpy as np
import optuna
import psutil
from end_to_end import RESULTS, machine

from autometa.past import PastReport, PastStudy, PastTrial
from autometa.sampling import surrogate_cache
from autometa.sampling.encoding import Domain
from autometa.sampling.sampler import PriorSampler
from autometa.space.files import load_space

BARS = {60: 0.25, 500: 0.5}
FIT_BAR = 20.0
TRIALS, TARGET, SUGGESTIONS = 500, 500, 60


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, nargs="+", default=list(BARS))
    parser.add_argument("--space", default="few_shot")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = [measure(count, arguments.space) for count in arguments.studies]
    (RESULTS / "prior_scale.json").write_text(json.dumps({**machine(), "rows": rows}, indent=2) + "\n")
    for row in rows:
        print(json.dumps(row))


def measure(count: int, name: str) -> dict[str, Any]:
    os.environ["AUTOMETA_CACHE"] = tempfile.mkdtemp()
    space = load_space(name)
    domain = Domain.of_space(space)
    past = [made(domain, f"study {i}", seed=i, trials=TRIALS) for i in range(count)]
    started = time.perf_counter()
    surrogates, _ = surrogate_cache.fit_or_load(domain, past)
    fitted = time.perf_counter() - started
    started = time.perf_counter()
    surrogate_cache.fit_or_load(domain, past)
    read = time.perf_counter() - started
    assert surrogates is not None
    study = optuna.create_study(direction="maximize")
    target = made(domain, "target", seed=10_000, trials=TARGET)
    for trial in target.trials:
        distributions = {key: domain.distributions[key] for key in trial.values}
        study.add_trial(
            optuna.create_trial(params=dict(trial.values), distributions=distributions, value=trial.curve[0].value)
        )
    study.sampler = PriorSampler(past, seed=0, space=space, cold_every=0)
    function = function_of(domain, 10_000)
    seconds, memory = [], []
    for _ in range(SUGGESTIONS):
        started = time.perf_counter()
        trial = study.ask()
        values = space.suggest(trial)
        seconds.append(time.perf_counter() - started)
        study.tell(trial, float(function(domain.encode(domain.codes([values])))[0]))
        memory.append(psutil.Process().memory_info().rss / 2**20)
    return {
        "studies": count,
        "trials_each": TRIALS,
        "trials_of_target": TARGET,
        "parameters": len(domain.names),
        "fit_seconds": round(fitted, 2),
        "read_back_seconds": round(read, 2),
        "informative": len(surrogates.studies),
        "suggestion_seconds": {
            "first": round(seconds[0], 3),
            "median": round(statistics.median(seconds[1:]), 3),
            "max": round(max(seconds[1:]), 3),
        },
        "memory_mib": {"after the second": round(memory[1]), "after the last": round(memory[-1])},
        "bars": {"suggestion": BARS.get(count), "fit": FIT_BAR if count == 60 else None},
    }


def function_of(domain: Domain, seed: int) -> Any:
    """A smooth function of encoded rows, half of it shared by all studies."""
    width = domain.encode(domain.sample(np.random.default_rng(0), 2)).shape[1]
    shared, own = np.random.default_rng(0), np.random.default_rng(seed)
    slope = shared.standard_normal(width) + own.standard_normal(width)
    centre = own.random(width)
    return lambda rows: rows @ slope - ((rows - centre) ** 2) @ np.abs(slope)


def made(domain: Domain, name: str, *, seed: int, trials: int) -> PastStudy:
    """A past study of random configurations."""
    codes = domain.sample(np.random.default_rng(seed), trials)
    values = function_of(domain, seed)(domain.encode(codes))
    configurations = [domain.values(row) for row in codes]
    return PastStudy(
        name,
        tuple(PastTrial(c, (PastReport(1, float(v)),)) for c, v in zip(configurations, values, strict=True)),
    )


if __name__ == "__main__":
    main()
