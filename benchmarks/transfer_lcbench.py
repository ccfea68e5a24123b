"""LCBench: networks on 34 tabular data sets, 7 hyperparameters, 52 epochs, as YAHPO Gym's surrogate predicts them.

Zimmer et al. 2021 measured it; Pfisterer et al. 2022 fitted the surrogate, which is deterministic and predicts
validation accuracy in per cent and cumulative seconds for every epoch. A trial reports nine times, as a search of
autometa does by default. The best of a task is the best of 20,000 random configurations refined by local search, which
adds a tenth of the way from the median to the best on the median task.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import FloatDistribution, IntDistribution
from transfer_tasks import Array, Cube, Distributions, Report, Scale, Values, past_study

from autometa.past import Direction, PastStudy

EPOCHS = 52
RUNGS = 9
# The order in which YAHPO Gym feeds the model and reads it (yahpo_gym/benchmarks/lcbench.py, cont_names, y_names).
INPUTS = (
    "epoch",
    "batch_size",
    "learning_rate",
    "momentum",
    "weight_decay",
    "num_layers",
    "max_units",
    "max_dropout",
)
TIME, VAL_ACCURACY = 0, 1
RANDOM = 20_000


class Simulator:
    """The surrogate of all tasks, one ONNX session."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )
        self._codes = json.loads((folder / "encoding.json").read_text())["OpenML_task_id"]

    def predict(self, task: str, points: Array, epochs: Array) -> tuple[Array, Array]:
        """Accuracy and seconds, each in (n,), of configurations in (n, parameter) after these epochs in (n,)."""
        known = np.column_stack([epochs, points]).astype(np.float32)
        code = np.full((len(known), 1), self._codes[task], dtype=np.int32)
        (found,) = self._session.run(None, {"x_cat": code, "x_cont": known})
        return found[:, VAL_ACCURACY].astype(float), found[:, TIME].astype(float)


@dataclass(frozen=True)
class LCBenchTask:
    name: str
    distributions: Distributions
    simulator: Simulator
    direction: Direction = "maximize"

    def curve(self, values: Values) -> list[Report]:
        points = np.repeat(Cube(self.distributions).points([values]), RUNGS, axis=0)
        rungs = np.arange(1, RUNGS + 1)
        accuracy, seconds = self.simulator.predict(self.name, points, np.round(EPOCHS * rungs / RUNGS))
        # The surrogate knows nothing of order: now and then it lets the clock run backwards.
        seconds = np.maximum.accumulate(np.maximum(seconds, 1e-3))
        return [Report(int(r), float(a), float(s)) for r, a, s in zip(rungs, accuracy, seconds, strict=True)]

    def evaluate(self, values: Values) -> float:
        return self.curve(values)[-1].value

    def results(self, points: Array) -> Array:
        """Accuracy in full, in (n,), of many configurations in (n, parameter) at once."""
        return self.simulator.predict(self.name, points, np.full(len(points), EPOCHS))[0]


class LCBench:
    """The suite.

    Args:
        data_root: holds `hpo/lcbench`.
        cache: keeps each task's best and median, which take a second or two to find.
        source_trials: random configurations in each past study.
    """

    label = "lcbench"
    rivals = ("tpe",)

    def __init__(self, data_root: Path, cache: Path, source_trials: int) -> None:
        folder = data_root / "hpo" / "lcbench"
        space = json.loads((folder / "config_space.json").read_text())["hyperparameters"]
        known = {parameter["name"]: parameter for parameter in space}
        self.names = tuple(known["OpenML_task_id"]["choices"])
        self._distributions = {name: _distribution(known[name]) for name in INPUTS[1:]}
        self._simulator = Simulator(folder)
        self._cache = cache
        self._source_trials = source_trials
        self._past = functools.cache(self._study)

    def task(self, name: str) -> LCBenchTask:
        return LCBenchTask(name, self._distributions, self._simulator)

    def sources(self, name: str) -> list[PastStudy]:
        return [self._past(other) for other in self.names if other != name]

    def scale(self, name: str) -> Scale:
        file = self._cache / f"lcbench-{name}.json"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(extremes(self.task(name), seed=self.names.index(name))))
        return Scale(**json.loads(file.read_text()))

    def _study(self, name: str) -> PastStudy:
        cube = Cube(self._distributions)
        # Seeds of their own, so that no past study tries a configuration of another.
        points = cube.draw(self._source_trials, np.random.default_rng([1, self.names.index(name)]))
        task = self.task(name)
        trials = [cube.values(point) for point in points]
        return past_study(task, [(values, task.curve(values)) for values in trials])


def extremes(task: LCBenchTask, seed: int, rounds: int = 40, kept: int = 20, neighbours: int = 50) -> dict[str, float]:
    """The median of random configurations, and the best after local search from the best of them."""
    generator = np.random.default_rng([0, seed])
    cube = Cube(task.distributions)
    unit = generator.random((RANDOM, len(task.distributions)))
    result = task.results(cube.from_unit(unit))
    median = float(np.median(result))
    for step in np.geomspace(0.2, 0.005, rounds):
        best = np.argsort(-result)[:kept]
        unit, result = unit[best], result[best]
        near = np.repeat(unit, neighbours, axis=0)
        moved = generator.random(near.shape) < 0.5
        near = np.clip(near + moved * generator.normal(scale=step, size=near.shape), 0, 1)
        unit = np.concatenate([unit, near])
        result = np.concatenate([result, task.results(cube.from_unit(near))])
    return {"best": float(result.max()), "median": median}


def _distribution(parameter: dict[str, Any]) -> FloatDistribution | IntDistribution:
    kind = IntDistribution if parameter["type"] == "uniform_int" else FloatDistribution
    return kind(parameter["lower"], parameter["upper"], log=parameter["log"])
