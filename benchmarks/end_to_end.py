"""The whole job as a user types it, timed: search, export, train, evaluate. Writes results with machine and date.

    python benchmarks/end_to_end.py omniglot
    python benchmarks/end_to_end.py cifar-fs --data-root ../shared/data

Each runs in an empty folder; nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
SEARCHES = {
    "omniglot": ["search"],
    "cifar-fs": ["search", "--dataset", "cifar-fs", "--shot", "5", "--trials", "12", "--time-budget", "15m"],
}
TEST_EPISODES = 2000


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=SEARCHES)
    parser.add_argument("--data-root")
    arguments = parser.parse_args()
    root = ["--data-root", str(Path(arguments.data_root).resolve())] if arguments.data_root else []
    with tempfile.TemporaryDirectory() as folder:
        facts = measure([*SEARCHES[arguments.name], *root], Path(folder))
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"end_to_end-{arguments.name}.json"
    file.write_text(json.dumps({"command": SEARCHES[arguments.name], **machine(), **facts}, indent=2) + "\n")
    print(file.read_text())


def measure(search: list[str], folder: Path) -> dict[str, Any]:
    found = run_search(search, folder)
    name = found.pop("study")
    autometa("export", name, "-o", "best.toml", folder=folder)
    start = time.perf_counter()
    trained = json.loads(autometa("train", "best.toml", "-o", "model", "--json", folder=folder))
    found["train_seconds"] = round(time.perf_counter() - start, 1)
    found["retrained_validation"] = trained["curve"][-1]["accuracy"]
    start = time.perf_counter()
    tested = autometa("evaluate", "model", "--episodes", str(TEST_EPISODES), "--json", folder=folder)
    found["evaluate_seconds"] = round(time.perf_counter() - start, 1)
    found["retrained_test"] = json.loads(tested)
    return found


def run_search(search: list[str], folder: Path) -> dict[str, Any]:
    """Run the search, noting when each line came."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "autometa", *search, "--json"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [(time.perf_counter() - start, json.loads(line)) for line in process.stdout]
    total = time.perf_counter() - start
    first = next(at for at, event in lines if event["event"] == "RungReached")
    ends = [event["state"] for _, event in lines if event["event"] == "TrialEnded"]
    last = lines[-1][1]
    trial = last["winning_trial"]
    return {
        "study": last["study"]["name"],
        "seconds_to_first_accuracy": round(first, 1),
        "seconds": round(total, 1),
        "trials": {state: ends.count(state) for state in sorted(set(ends))},
        "winner": last["winner"],
        "winning_config": trial["config"]["values"] if trial else None,  # of a baseline or an ensemble
        "trained_steps": trial["curve"][-1]["steps"] if trial else None,
    }


def autometa(*arguments: str, folder: Path) -> str:
    command = [sys.executable, "-m", "autometa", *arguments]
    return subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout


def machine() -> dict[str, Any]:
    known = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in known if line.startswith("model name")), "")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": model or platform.processor(),
        "cores": os.cpu_count(),
        "gpu": "none",
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
