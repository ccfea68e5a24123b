"""The training core's speed on a GPU against the plain loop of learn2learn's algorithm and easyfsl, on the same card.

    python benchmarks/speed_gpu.py --data-root ../shared/data     # a CUDA machine; nothing else should run on it
    python benchmarks/speed_gpu.py --device cpu --tiny            # only whether it runs; writes no results

Steps take the same episodes again and again: gradient, clipping and optimiser for autometa, gradient alone for MAML's
plain loop. Methods take turns; figures are medians over rounds. The share of convolutions is by the profiler, of the
time in kernels. Trials an hour are those of `vectorised.py`. What was not run is "not measured". Needs
`pip install 'autometa-search[bench]'`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import speed_peers
import torch
import vectorised
from end_to_end import RESULTS, machine
from speed_work import PRETRAIN_CLASSES, WAY, Fixed, random_episodes
from torch.autograd.profiler_util import EventList
from torch.profiler import ProfilerActivity, profile
from transfer_report import markdown

from autometa.data.episodes import EpisodeBatch
from autometa.learning.backbones.conv import Conv
from autometa.learning.device import pick_device
from autometa.learning.learner import Learner, Setting
from autometa.learning.learners.maml import Maml
from autometa.learning.learners.prototypical import Prototypical
from autometa.learning.training import Training, TrainingOptions
from autometa.records import Accuracy, Budget, EpisodeSpec, TrialConfig
from autometa.trial.job import DatasetRef, Job

Step = Callable[[], Any]
NOT_MEASURED = "not measured"
BARS = {"maml": 20.0, "prototypical": 10.0, "convolutions": 0.5, "trials": 4.0}
# How autometa may train, and whether in bfloat16.
OURS = {"autometa": False, "autometa, bfloat16": True}
_WARM_UP = 8  # steps
_PROFILED = 5
_STEPS_BETWEEN_WAITS = 20  # as training looks at its loss


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of work for each method in each round")
    parser.add_argument("--batch", type=int, default=16, help="tasks or episodes a step")
    parser.add_argument("--data-root", help="where Omniglot is, for trials an hour")
    parser.add_argument("--tiny", action="store_true", help="a few steps of small batches on the digits")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("speed_gpu: torch sees no GPU; --device cpu --tiny shows whether the benchmark runs")
    if arguments.tiny:
        arguments.rounds, arguments.seconds, arguments.batch = 1, 0.1, 2
    device = pick_device(arguments.device == "cuda")
    rows = [row for shape in ((1, 28), (3, 32)) for row in training_rows(arguments, device, *shape)]
    rows.append(trials_row(arguments))
    print(table(rows, arguments.device))
    if arguments.device == "cuda" and not arguments.tiny:
        found = {**machine(), "gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "rows": rows}
        (RESULTS / "speed_gpu.json").write_text(json.dumps(found, indent=2) + "\n")
        (RESULTS / "speed_gpu.md").write_text(table(rows, "cuda"))


def training_rows(
    arguments: argparse.Namespace, device: torch.device, channels: int, side: int
) -> list[dict[str, Any]]:
    """Tasks and episodes a second on images of one shape, and convolutions' share of a step."""
    shape = f"{channels} × {side} × {side}"
    episodes = random_episodes(arguments.batch, channels, side).to(device)
    rows = []
    for steps in (1, 5):
        net = speed_peers.Conv4(channels, side, 32, WAY).to(device)
        plain = speed_peers.plain_maml(net, steps)
        learner = lambda: Maml(backbone(channels, side), setting(), inner_lr=0.01, inner_steps=steps)  # noqa: B023, E731
        methods = ours(learner, episodes, device) | {"plain loop": lambda: plain(episodes)}  # noqa: B023
        name = f"MAML, {steps} inner step{'s' if steps > 1 else ''}, {shape}"
        rows.append(compared(name, "maml", methods, arguments, device))
        rows.append(profiled(name, methods["autometa"], device))
    net = speed_peers.Conv4(channels, side, 32, 0).to(device)
    theirs = speed_peers.easyfsl_training(net)
    methods = ours(lambda: Prototypical(backbone(channels, side), setting()), episodes, device)
    methods |= {"easyfsl": lambda: theirs(episodes)}
    name = f"prototypical step, {shape}"
    rows.append(compared(name, "prototypical", methods, arguments, device))
    rows.append(profiled(name, methods["autometa"], device))
    return rows


def backbone(channels: int, side: int) -> Conv:
    return Conv((channels, side, side), width=32)


def setting() -> Setting:
    return Setting(WAY, PRETRAIN_CLASSES)


def ours(make: Callable[[], Learner], episodes: EpisodeBatch, device: torch.device) -> dict[str, Step]:
    """A step by each way to train."""
    found: dict[str, Step] = {}
    for name, bfloat16 in OURS.items():
        torch.manual_seed(0)
        training = Training(
            make().to(device),
            Fixed(episodes),
            options=TrainingOptions(outer_lr=speed_peers.OUTER_LR, bfloat16=bfloat16),
            budget=Budget(steps=10**9),
            validate=lambda *_: Accuracy(mean=0.0, half_width=1.0, episodes=1, seed=0),
            generator=torch.Generator(device).manual_seed(0),
        )
        for _ in range(_WARM_UP):
            training._step()
        found[name] = training._step
    return found


def compared(
    name: str, what: str, methods: dict[str, Step], arguments: argparse.Namespace, device: torch.device
) -> dict[str, Any]:
    """Medians over rounds of tasks or episodes a second, and the best of ours to the other's."""
    rates: dict[str, list[float]] = {method: [] for method in methods}
    for _ in range(arguments.rounds):
        for method, step in methods.items():
            rates[method].append(arguments.batch * steps_a_second(step, arguments.seconds, device))
    medians = {method: statistics.median(of_method) for method, of_method in rates.items()}
    *mine, other = medians
    per_second = {method: round(median, 1) for method, median in medians.items()}
    ratio = round(max(medians[method] for method in mine) / medians[other], 2)
    return {"name": name, "what": what, "found": per_second, "ratio": ratio, "bar": BARS[what]}


def steps_a_second(step: Step, seconds: float, device: torch.device) -> float:
    step()
    wait(device)
    started, done = time.perf_counter(), 0
    while time.perf_counter() - started < seconds or not done:
        for _ in range(_STEPS_BETWEEN_WAITS if device.type == "cuda" else 1):
            step()
            done += 1
        wait(device)  # what is queued belongs to the time
    return done / (time.perf_counter() - started)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def profiled(name: str, step: Step, device: torch.device) -> dict[str, Any]:
    """What share of the time in kernels is in those that convolutions launch, of a step."""
    on_gpu = device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as found:
        for _ in range(_PROFILED):
            step()
        wait(device)
    share = convolutions_share(found.key_averages(), on_gpu=on_gpu)
    return {
        "name": f"convolutions in {name}",
        "what": "convolutions",
        "found": {"share of kernel time": round(share, 3)},
        "ratio": round(share, 2),
        "bar": BARS["convolutions"],
    }


def convolutions_share(averages: EventList, *, on_gpu: bool) -> float:
    """Of the time that operations themselves take, by their names: a kernel's counts for what launched it."""
    times = {row.key: row.self_device_time_total if on_gpu else row.self_cpu_time_total for row in averages}
    operations = {key: time for key, time in times.items() if key.startswith("aten::")}
    return sum(time for key, time in operations.items() if "conv" in key) / max(1e-9, sum(operations.values()))


def trials_row(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trials an hour of those trained together in groups, to one at a time."""
    row: dict[str, Any] = {"name": "trials an hour of conv4-32", "what": "trials", "bar": BARS["trials"]}
    if not (arguments.tiny or arguments.data_root):
        return row | {"found": {"needs --data-root": NOT_MEASURED}, "ratio": NOT_MEASURED}

    def job(folder: Path, number: int) -> Job:
        return Job(
            config=TrialConfig(values=vectorised.CONV4_32 | {"outer_lr": 1e-3 * (1 + number)}),
            dataset=DatasetRef(name="digits" if arguments.tiny else "omniglot", root=arguments.data_root),
            episodes=EpisodeSpec(way=3 if arguments.tiny else 5, shot=1, query=5 if arguments.tiny else 15),
            budget=Budget(steps=3 if arguments.tiny else 300, rungs=3),
            seed=number,
            folder=str(folder / str(number)),
            validation_episodes=20,
            use_gpu=arguments.device == "cuda",
        )

    measured = vectorised.measure(job, 1 if arguments.tiny else 3, time.perf_counter)
    return row | {"found": measured["trials_an_hour"], "ratio": max(measured["times_as_many"].values())}


def table(rows: list[dict[str, Any]], device: str) -> str:
    lines = [
        [row["name"], ", ".join(f"{k} {v}" for k, v in row["found"].items()), str(row["ratio"]), f"{row['bar']:g}"]
        for row in rows
    ]
    heads = ["what", "tasks or episodes a second, shares, trials an hour", "ratio or share", "bar"]
    return (
        "\n".join(
            [
                f"# Speed on {'a GPU' if device == 'cuda' else 'a CPU: only whether it runs'}",
                "",
                *markdown(heads, lines),
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
