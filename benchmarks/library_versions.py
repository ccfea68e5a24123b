"""Whether the tests pass with the lowest and the highest version of a library that pyproject.toml allows.

    python benchmarks/library_versions.py optuna
    python benchmarks/library_versions.py ray --only lowest --tests tests/orchestrator/test_cluster.py

Each version is installed alone into a virtual environment that else sees the packages of this one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
# Tests of the parts that touch it; they take minutes.
TESTS = {
    "optuna": [
        "tests/test_optuna_private.py",
        "tests/hpo",
        "tests/study",
        "tests/sampling",
        "tests/pruning",
        "tests/archives",
        "--deselect=tests/study/test_search.py",
    ],
    "ray": ["tests/orchestrator/test_cluster.py", "tests/orchestrator/test_ray_cluster.py"],
    "torch": ["tests/learning", "tests/trial"],
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("library", choices=TESTS)
    parser.add_argument("--only", choices=("lowest", "highest"))
    parser.add_argument("--tests", nargs="+", help="in place of those of the library")
    arguments = parser.parse_args()
    versions = allowed(requirement(arguments.library))
    chosen = {"lowest": versions[0], "highest": versions[-1]}
    failed = []
    for version in sorted({v for name, v in chosen.items() if arguments.only in (None, name)}):
        print(f"{arguments.library} {version}", flush=True)
        if not passes(arguments.library, version, arguments.tests or TESTS[arguments.library]):
            failed.append(str(version))
    if failed:
        sys.exit(f"tests fail with {arguments.library} {', '.join(failed)}")


def requirement(library: str) -> Requirement:
    """What pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return next(r for r in map(Requirement, project["dependencies"]) if r.name == library)


def allowed(asked: Requirement) -> list[Version]:
    """The versions that the package index has, in ascending order."""
    command = [sys.executable, "-m", "pip", "index", "versions", asked.name]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in said.splitlines() if line.startswith("Available versions:"))
    versions = map(Version, line.removeprefix("Available versions:").split(","))
    return sorted(v for v in versions if v in asked.specifier)


def passes(library: str, version: Version, tests: list[str]) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = f"{folder}/bin/python"
        here = {"base": folder, "platbase": folder}
        packages = Path(sysconfig.get_path("purelib", "venv", here))
        (packages / "of_the_caller.pth").write_text(sysconfig.get_path("purelib"))
        # Else pip finds the caller's version, and installs nothing.
        install = [python, "-m", "pip", "install", "-q", "--no-deps", "--ignore-installed", f"{library}=={version}"]
        subprocess.run(install, check=True)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        check = f"from importlib.metadata import version; assert version({library!r}) == {str(version)!r}"
        subprocess.run([python, "-c", check], check=True)
        return subprocess.run([python, "-m", "pytest", "-q", *tests], cwd=ROOT, env=environment).returncode == 0


if __name__ == "__main__":
    main()
