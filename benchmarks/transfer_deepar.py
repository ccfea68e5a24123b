"""DeepAR: a forecaster's 6 hyperparameters on 11 data sets, about 220 real trainings each (Salinas et al. 2020).

A proposal is evaluated as the nearest row, in the unit cube, of those not evaluated yet. The value to minimise is
CRPS. The best of a task is its best row, the median its median row. Past studies are the other tables in full.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from transfer_tasks import Array, Cube, Distributions, Report, Scale, Values, past_study

from autometa.past import Direction, PastStudy

# The table holds the logarithm of each; these are the ranges that its rows span.
DISTRIBUTIONS: dict[str, tuple[str, BaseDistribution]] = {
    "hp_num_layers": ("num_layers", IntDistribution(2, 4)),
    "hp_num_cells": ("num_cells", IntDistribution(30, 120, log=True)),
    "hp_dropout_rate_log": ("dropout_rate", FloatDistribution(0.01, 0.502, log=True)),
    "hp_learning_rate_log": ("learning_rate", FloatDistribution(1e-4, 0.1, log=True)),
    "hp_num_batches_per_epoch_log": ("num_batches_per_epoch", IntDistribution(10, 10_000, log=True)),
    "hp_context_length_ratio_log": ("context_length_ratio", FloatDistribution(0.055, 4.0, log=True)),
}


class DeepARTask:
    """One table; it remembers which rows it has given."""

    direction: Direction = "minimize"

    def __init__(self, name: str, points: Array, values: Array, seconds: Array) -> None:
        self.name = name
        self.distributions: Distributions = dict(DISTRIBUTIONS.values())
        self.points = points  # (row, parameter), in the space's own units
        self.values = values  # (row,)
        self.seconds = seconds  # (row,)
        self._cube = Cube(self.distributions)
        self._unit = self._cube.to_unit(points)
        self._free = np.ones(len(points), dtype=bool)

    def curve(self, values: Values) -> list[Report]:
        row = self._nearest(values)
        self._free[row] = False
        return [self.report(row)]

    def evaluate(self, values: Values) -> float:
        return self.curve(values)[-1].value

    def report(self, row: int) -> Report:
        return Report(1, float(self.values[row]), float(self.seconds[row]))

    def _nearest(self, values: Values) -> int:
        """The nearest row not yet given."""
        if not self._free.any():
            raise ValueError(f"{self.name}: all {len(self.values)} rows have been evaluated")
        (proposal,) = self._cube.to_unit(self._cube.points([values]))
        distance = ((self._unit - proposal) ** 2).sum(axis=1)
        return int(np.where(self._free, distance, np.inf).argmin())


class DeepAR:
    """The suite; `data_root` holds `hpo/DeepAR.csv.zip`."""

    label = "deepar"
    rivals = ("random", "tpe")

    def __init__(self, data_root: Path) -> None:
        table = pd.read_csv(data_root / "hpo" / "DeepAR.csv.zip")
        self._tables = {str(name): rows for name, rows in table.groupby("task")}
        self.names = tuple(sorted(self._tables))

    def task(self, name: str) -> DeepARTask:
        rows = self._tables[name]
        points = np.exp(rows[list(DISTRIBUTIONS)].to_numpy())
        integers = [isinstance(d, IntDistribution) for _, d in DISTRIBUTIONS.values()]
        points[:, integers] = points[:, integers].round()
        return DeepARTask(name, points, rows["metric_CRPS"].to_numpy(), rows["metric_time"].to_numpy(dtype=float))

    def sources(self, name: str) -> list[PastStudy]:
        return [self._study(other) for other in self.names if other != name]

    def scale(self, name: str) -> Scale:
        values = self.task(name).values
        return Scale(best=float(values.min()), median=float(np.median(values)))

    def _study(self, name: str) -> PastStudy:
        task = self.task(name)
        cube = Cube(task.distributions)
        return past_study(task, [(cube.values(p), [task.report(row)]) for row, p in enumerate(task.points)])
