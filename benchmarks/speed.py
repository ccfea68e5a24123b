"""The training core's speed on a CPU against `higher`, the plain loop of learn2learn's algorithm, and easyfsl.

    python benchmarks/speed.py                # twenty minutes; nothing else should run on the machine
    python benchmarks/speed.py --rounds 1 --seconds 1 --only maml

Each method has a process of its own and they take turns, so that what the machine does meanwhile meets all alike;
figures are medians over rounds. All train the same network on the same shapes: 5-way 5-shot with 15 queries a class,
Conv4 with 32 channels, 16 tasks a step for MAML (second order). Needs `pip install 'autometa-search[bench]'`.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from typing import Any

from end_to_end import RESULTS, machine
from speed_work import EVALUATED, Case, Worker
from transfer_report import markdown

SHAPES = ((1, 28), (3, 32))
META_BATCH, EVALUATION_BATCH = 16, 8
PRETRAIN_BATCHES = (64, 256)
# What must be reached against the best of the others; a time limit's share for the peak of convolutions.
BARS = {"maml": 1.5, "prototypical": 2.0, "evaluation": 3.0, "pretraining": 0.8, "two trials": 1.3}
UNITS = {"maml": "tasks", "prototypical": "episodes", "evaluation": "episodes", "pretraining": "images"}


def main() -> None:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of work in each round")
    parser.add_argument("--only", nargs="+", choices=BARS, default=list(BARS))
    parser.add_argument("--no-results", action="store_true", help="print only")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    peaks = {side: peak(channels, side, arguments.rounds, arguments.seconds) for channels, side in SHAPES}
    for name, cases in comparisons().items():
        if cases[0].what in arguments.only:
            rows.append(compared(name, cases, arguments.rounds, arguments.seconds, peaks[cases[0].side]))
            print(json.dumps(rows[-1]), flush=True)
    if "two trials" in arguments.only:
        rows += [side_by_side(case, arguments.rounds, arguments.seconds) for case in pairs()]
    gflops = " and ".join(f"{rate / 1e9:.0f}" for rate in peaks.values())
    found = {**machine(), "peak_gflops": gflops, "rounds": arguments.rounds, "seconds": arguments.seconds, "rows": rows}
    print(table(found))
    if not arguments.no_results:
        (RESULTS / "speed.json").write_text(json.dumps(found, indent=2) + "\n")
        (RESULTS / "speed.md").write_text(table(found))


def comparisons() -> dict[str, list[Case]]:
    """By name, the case of autometa first."""
    found = {}
    for channels, side in SHAPES:
        shape = f"{channels} × {side} × {side}"
        for steps in (1, 5):
            methods = ("autometa", "plain loop", "higher")
            cases = [Case("maml", method, channels, side, META_BATCH, steps) for method in methods]
            found[f"MAML, {steps} inner step{'s' if steps > 1 else ''}, {shape}"] = cases
        for what, name, batch in (
            ("prototypical", "prototypical step", META_BATCH),
            ("evaluation", f"evaluation of {EVALUATED} episodes", EVALUATION_BATCH),
        ):
            cases = [Case(what, method, channels, side, batch) for method in ("autometa", "easyfsl")]
            found[f"{name}, {shape}"] = cases
        for batch in PRETRAIN_BATCHES:
            cases = [Case("pretraining", method, channels, side, batch) for method in ("autometa", "convolutions")]
            found[f"pre-training, {batch} images a step, {shape}"] = cases
    return found


def pairs() -> list[Case]:
    return [
        Case("maml", "autometa", 1, 28, META_BATCH, 5, threads=1),
        Case("prototypical", "autometa", 1, 28, META_BATCH, threads=1),
    ]


def peak(channels: int, side: int, rounds: int, seconds: float) -> float:
    """Operations a second of the network's largest convolution, the best of all rounds."""
    worker = Worker(Case("peak", "convolution", channels, side, 1))
    rates = []
    for _ in range(rounds):
        worker.start(seconds / 4)
        work = worker.result()
        rates.append(work.units / work.seconds)
    worker.end()
    return max(rates)


def compared(name: str, cases: Sequence[Case], rounds: int, seconds: float, peak: float) -> dict[str, Any]:
    """Medians over rounds, and the median of ratios within a round, of the first case to the best of the others.

    `peak` is of operations a second; `of_peak` the share of it that the convolutions of the first case reach.
    """
    workers = {case.method: Worker(case) for case in cases}
    rates: dict[str, list[float]] = {method: [] for method in workers}
    for _ in range(rounds):
        for method, worker in workers.items():
            worker.start(seconds)
            work = worker.result()
            rates[method].append(work.units / work.seconds)
    first = {method: round(worker.first_seconds, 2) for method, worker in workers.items()}
    ends = {method: worker.end() for method, worker in workers.items()}
    peaks = {method: round(found) for method, (found, _) in ends.items()}
    ours, *others = workers
    ratios = [rates[ours][i] / max(rates[other][i] for other in others) for i in range(rounds)]
    units = EVALUATED if cases[0].what == "evaluation" else cases[0].batch
    operations = ends[ours][1] / units
    return {
        "name": name,
        "operations_a_unit": round(operations),
        "of_peak": round(statistics.median(rates[ours]) * operations / peak, 2),
        "what": cases[0].what,
        "per_second": {method: round(statistics.median(found), 1) for method, found in rates.items()},
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in sorted(ratios)],
        "peak_mib": peaks,
        "memory_ratio": round(peaks[ours] / max(1, min(peaks[other] for other in others)), 2),
        "first_step_seconds": first,
    }


def side_by_side(case: Case, rounds: int, seconds: float) -> dict[str, Any]:
    """Two trials at once with a thread each, against one after the other with two threads.

    At most twice what one of them does with one thread while the other core is idle: the `limit`.
    """
    alone, *both = Worker(case._replace(threads=2)), Worker(case), Worker(case)
    rates: dict[str, list[float]] = {"at once": [], "in turn": [], "limit": []}
    for _ in range(rounds):
        alone.start(seconds)
        work = alone.result()
        rates["in turn"].append(work.units / work.seconds)
        both[0].start(seconds)
        work = both[0].result()
        rates["limit"].append(2 * work.units / work.seconds)
        for worker in both:
            worker.start(seconds)
        rates["at once"].append(sum(found.units / found.seconds for found in [worker.result() for worker in both]))
    for worker in (alone, *both):
        worker.end()
    ratios = [a / b for a, b in zip(rates["at once"], rates["in turn"], strict=True)]
    return {
        "name": f"two trials of {case.what} at once, {case.channels} × {case.side} × {case.side}",
        "what": "two trials",
        "per_second": {method: round(statistics.median(found), 1) for method, found in rates.items()},
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in sorted(ratios)],
    }


def table(found: dict[str, Any]) -> str:
    """All of it on one screen."""
    heads = ["what", "per second", "others", "ratio to the best [min, max]", "bar", "of the peak", "memory", "ratio"]
    lines = [
        "# Speed on a CPU",
        "",
        f"Medians of {found['rounds']} rounds of {found['seconds']:g} s, methods in turn. Pre-training is against the",
        "convolutions alone. Memory: peak beyond the first step's start, in MiB, and against the least of the others.",
        "How far from the limit: `of the peak` is the share of the time in which the step's convolutions and products",
        f"could be done at the rate of the largest convolution alone ({found['peak_gflops']} Gflop/s for the two",
        "shapes); two trials at once can reach twice what one does alone with one thread, their `limit`.",
        f"Details in `speed.json`. {found['processor']}, {found['cores']} cores, {found['date']}. On a GPU: not",
        "measured.",
        "",
        *markdown(heads, [_row(row) for row in found["rows"]]),
    ]
    return "\n".join(lines) + "\n"


def _row(row: dict[str, Any]) -> list[str]:
    (_, ours), *others = row["per_second"].items()
    peaks = row.get("peak_mib")
    return [
        row["name"],
        f"{ours:g} {UNITS.get(row['what'], 'tasks')}",
        ", ".join(f"{method} {rate:g}" for method, rate in others),
        f"{row['ratio']:.2f} [{row['ratios'][0]:.2f}, {row['ratios'][-1]:.2f}]",
        f"{BARS[row['what']]:g}",
        f"{row['of_peak']:.2f}" if "of_peak" in row else "",
        str(next(iter(peaks.values()))) if peaks else "",
        f"{row['memory_ratio']:.2f}" if peaks else "",
    ]


if __name__ == "__main__":
    main()
