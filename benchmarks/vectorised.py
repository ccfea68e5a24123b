"""Trials an hour of candidates trained together as one model, against one at a time, in one worker.

    python benchmarks/vectorised.py --data-root ../shared/data

Prototypical networks with conv4-32 on 5-way 1-shot Omniglot, each with a rate, a temperature and a seed of its
own. A trial is a whole one: made, trained, validated and saved at each rung, as a worker of a search does it.
On a CPU with one thread, as such a worker has it, by seconds of the processor; on a GPU, where there is one, by the
clock, when nothing else should run. Operations are what autograd and its kernels dispatch in one step, views and
allocations left out: on a GPU about as many launches.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from end_to_end import RESULTS, machine
from torch.utils._python_dispatch import TorchDispatchMode

from autometa.learning.device import limit_threads
from autometa.learning.ops import native
from autometa.learning.stacked.training import StackedTraining
from autometa.learning.training import Training
from autometa.records import Budget, EpisodeSpec, TrialConfig, TrialRecord
from autometa.trial.group import run_group
from autometa.trial.job import DatasetRef, Job
from autometa.trial.run import prepare

SIZES = (1, 2, 4, 8)
TRIALS = 8
CONV4_32 = {"learner": "prototypical", "backbone": "conv", "conv.depth": 4, "conv.width": 32, "episodes_per_step": 1}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-root")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    limit_threads(1)
    devices = {"cpu": False, "cuda": True}
    found: dict[str, Any] = {"trials": TRIALS, "steps": arguments.steps, "rounds": arguments.rounds}
    for name, use_gpu in devices.items():
        if use_gpu and not torch.cuda.is_available():
            found[name] = "not measured"
            continue
        make = functools.partial(job, arguments.data_root, arguments.steps, use_gpu)
        found[name] = measure(make, arguments.rounds, time.perf_counter if use_gpu else time.process_time)
    found["operations_a_step_and_candidate"] = operations(functools.partial(job, arguments.data_root, 9, False))
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    file = RESULTS / "vectorised.json"
    file.write_text(json.dumps({**machine(), "gpu": gpu, "torch": torch.__version__, **found}, indent=2) + "\n")
    print(file.read_text())


def job(root: str | None, steps: int, use_gpu: bool, folder: Path, number: int) -> Job:
    values = {"outer_lr": 1e-3 * (1 + number), "prototypical.temperature": 0.1 * (1 + number)}
    return Job(
        config=TrialConfig(values={**CONV4_32, **values}),
        dataset=DatasetRef(name="omniglot", root=root),
        episodes=EpisodeSpec(way=5, shot=1, query=15),
        budget=Budget(steps=steps, rungs=3),
        seed=number,
        folder=str(folder / str(number)),
        validation_episodes=20,
        use_gpu=use_gpu,
    )


def measure(make: Any, rounds: int, clock: Callable[[], float]) -> dict[str, Any]:
    """Trials an hour by how many are trained together, medians over rounds that take turns; and what they reached."""
    seconds: dict[int, list[float]] = {size: [] for size in SIZES}
    accuracies: dict[int, list[float]] = {}
    trained(make, 2)  # warm: caches, allocators, kernels
    for _ in range(rounds):
        for size in SIZES:
            started = clock()
            records = trained(make, size)
            seconds[size].append(clock() - started)
            accuracies[size] = [record.curve[-1].accuracy.mean for record in records]
    rates = {size: TRIALS * 3600 / statistics.median(of_size) for size, of_size in seconds.items()}
    return {
        "trials_an_hour": {size: round(rate) for size, rate in rates.items()},
        "times_as_many": {size: round(rate / rates[1], 2) for size, rate in rates.items()},
        "largest_difference_in_accuracy": max(
            abs(a - b) for size in SIZES for a, b in zip(accuracies[1], accuracies[size], strict=True)
        ),
    }


def trained(make: Any, size: int) -> list[TrialRecord]:
    """All trials, in groups of a size, by number."""
    records: dict[int, TrialRecord] = {}
    with tempfile.TemporaryDirectory() as folder:
        for first in range(0, TRIALS, size):
            jobs = {number: make(Path(folder), number) for number in range(first, first + size)}
            run_group(
                jobs,
                on_start=lambda _: None,
                on_rung=lambda *_: False,
                on_end=lambda record: records.update({record.number: record}),
            )
    return [records[number] for number in range(TRIALS)]


_NO_LAUNCH = ("empty", "new_empty", "_local_scalar_dense", "_record_function", "detach")


class _Counter(TorchDispatchMode):
    """Counts what is dispatched, but for views, allocations and numbers that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not function.is_view and not function.name().removeprefix("aten::").startswith(_NO_LAUNCH)
        return function(*args, **(kwargs or {}))


def operations(make: Any) -> dict[str, float]:
    """Of one step alone, with the clipping that torch takes on a GPU, and of stacked ones.

    Without the kernels that are for CPUs only.
    """
    native.is_available = lambda *_: False
    torch.nn.utils.clip_grad_norm_ = functools.partial(torch.nn.utils.clip_grad_norm_, foreach=True)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        alone = prepare(make(Path(folder), 0))
        found["alone"] = float(_counted(alone))
        for size in SIZES[1:]:
            together = StackedTraining([prepare(make(Path(folder), number)) for number in range(size)])
            found[str(size)] = round(_counted(together) / size, 1)
    return found


def _counted(training: Training | StackedTraining) -> int:
    training._step()
    with _Counter() as counter:
        training._step()
    return counter.count


if __name__ == "__main__":
    main()
