"""How long a search takes to start: from Enter to the first step of its first trial, and to its first accuracy.

    python benchmarks/startup.py
    python benchmarks/startup.py --datasets digits omniglot --data-root ../shared/data

Each round is the real command in a process of its own, in an empty folder, without a running Ray; it is interrupted
after its first accuracy. Data sets are decoded before, past studies are fitted in the first round and kept for the
others. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from end_to_end import RESULTS, machine

from autometa.data.load import load_dataset

BAR_SECONDS = 5.0
# What the user sees of a start, in this order.
STAGES = {
    "SearchStarted": "checked, cluster up",
    "TrialStarted": "first trial proposed",
    "TrainingStarted": "first step trained",
    "RungReached": "first accuracy",
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--datasets", nargs="+", default=["digits"])
    parser.add_argument("--data-root")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    root = str(Path(arguments.data_root).resolve()) if arguments.data_root else None
    measured = {}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["AUTOMETA_CACHE"] = cache
        for dataset in arguments.datasets:
            load_dataset(dataset, data_root=root)
            command = ["search", "--dataset", dataset, *(["--data-root", root] if root else [])]
            measured[dataset] = {"command": ["autometa", *command], **rounds(command, arguments.rounds)}
    results = {**machine(), "bar_seconds_to_the_first_step": BAR_SECONDS, "datasets": measured}
    (RESULTS / "startup.json").write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


def rounds(command: list[str], count: int) -> dict[str, Any]:
    """Seconds after Enter, each round and their median."""
    each = [one_start(command) for _ in range(count)]
    stages = [{STAGES[event]: round(at, 2) for event, at in found.items()} for found in each]
    medians = {name: round(statistics.median(one[name] for one in stages), 2) for name in STAGES.values()}
    return {"median_seconds": medians, "rounds": stages, "load_average": os.getloadavg()[0]}


def one_start(command: list[str]) -> dict[str, float]:
    """Seconds from Enter to the first event of each kind."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        arguments = [sys.executable, "-m", "autometa", *command, "--json"]
        with subprocess.Popen(arguments, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for line in process.stdout:
                event = json.loads(line)["event"]
                found.setdefault(event, time.perf_counter() - start)
                if event == "RungReached":
                    process.send_signal(signal.SIGINT)
                    break
            process.stdout.read()
        assert process.returncode == 130, "the command ended otherwise than by Ctrl-C"
    return {event: found[event] for event in STAGES}


if __name__ == "__main__":
    main()
