"""MAML's tasks one after the other and together, and its inner steps recomputed: tasks a second, memory, operations.

    python benchmarks/tasks_together.py            # three minutes; nothing else should run on the machine

5-way 5-shot with 15 queries a class, Conv4 with 32 channels, 16 tasks a step, second order, images of 3 × 32 × 32. Each
case has a process of its own. Operations are what autograd and its kernels dispatch in one step, views and allocations
left out and without the kernels that are for CPUs only: on a GPU about as many launches.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import time
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch
from end_to_end import RESULTS, machine
from speed_work import WAY, Fixed, random_episodes
from vectorised import _Counter

from autometa.learning.backbones.conv import Conv
from autometa.learning.device import pick_device
from autometa.learning.learner import Setting
from autometa.learning.learners.maml import Maml
from autometa.learning.ops import native

TASKS, CHANNELS, SIDE = 16, 3, 32


class Case(NamedTuple):
    inner_steps: int
    at_once: int
    checkpoint_inner_steps: bool


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of work for each case")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    cases = [Case(steps, at_once, False) for steps in (1, 5) for at_once in (1, 4, TASKS)]
    cases += [Case(steps, 1, checkpoint) for steps, checkpoint in ((5, True), (20, False), (20, True))]
    rows = []
    for case in cases:
        rows.append(case._asdict() | _in_process(_measured, case, arguments.threads, arguments.seconds))
        rows[-1]["operations"] = _in_process(_operations, case)
        print(json.dumps(rows[-1]), flush=True)
    found = {**machine(), "torch": torch.__version__, "threads": arguments.threads, "rows": rows}
    (RESULTS / "tasks_together.json").write_text(json.dumps(found, indent=2) + "\n")


def _in_process(function: Any, *arguments: Any) -> Any:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_send, args=(theirs, function, *arguments))
    process.start()
    found = ours.recv()
    process.join()
    return found


def _send(pipe: Connection, function: Any, *arguments: Any) -> None:
    pipe.send(function(*arguments))


def _learner(case: Case) -> Maml:
    torch.manual_seed(0)
    backbone = Conv((CHANNELS, SIDE, SIDE), width=32, norm="support")
    options = {"inner_steps": case.inner_steps, "checkpoint_inner_steps": case.checkpoint_inner_steps}
    learner = Maml(backbone, Setting(WAY, 64), inner_lr=0.01, **options)
    learner.tasks_at_once = case.at_once
    return learner


def _measured(case: Case, threads: int, seconds: float) -> dict[str, Any]:
    torch.set_num_threads(threads)
    pick_device(use_gpu=False)
    learner, source = _learner(case), Fixed(random_episodes(TASKS, CHANNELS, SIDE))
    before = _peak()
    learner.outer_step(source)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        learner.zero_grad(set_to_none=True)
        learner.outer_step(source)
        done += TASKS
    return {
        "tasks_per_second": round(done / (time.perf_counter() - started), 1),
        "peak_mib": round(_peak() - before),
    }


def _operations(case: Case) -> int:
    native.is_available = lambda *_: False
    learner, source = _learner(case), Fixed(random_episodes(TASKS, CHANNELS, SIDE))
    with _Counter() as counter:
        learner.outer_step(source)
    return counter.count


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
