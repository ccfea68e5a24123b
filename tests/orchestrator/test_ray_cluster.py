"""A search on a cluster that somebody else started: plain `ray start --head`, on ports and in a folder of its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.trial import TrialState

import autometa
from autometa.hpo.storage import load_study, open_storage
from tests.commands import search_digits

# It stops itself where anything hangs: no test of a cluster may hold up the others.
pytestmark = pytest.mark.timeout(240)
TINY = 'name = "tiny"\n[parameters."conv.width"]\nchoices = [4]\n'


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Head:
    """`ray start --head` without a token, as on a machine where Ray has not been used before."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = Path(tempfile.mkdtemp(prefix="ray"))  # pytest's folders have names too long for Ray's sockets
        names = ("port", "node-manager-port", "object-manager-port", "dashboard-agent-listen-port")
        ports = free_ports(len(names) + 1)
        options = [f"--{name}={port}" for name, port in zip(names, ports, strict=False)]
        ray = Path(sys.executable).with_name("ray")
        command = [str(ray), "start", "--head", "--block", "--num-cpus=1", "--include-dashboard=false", *options]
        command += [f"--temp-dir={self.folder}", f"--object-store-memory={80 * 2**20}", "--disable-usage-stats"]
        command += [f"--metrics-export-port={ports[-1]}", "--node-ip-address=127.0.0.1"]
        self.port = ports[0]
        self.log = (self.folder / "head.log").open("w+")
        self.process = subprocess.Popen(
            command, env=self.environment(), stdout=self.log, stderr=self.log, start_new_session=True
        )

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return {**kept, "HOME": str(self.home), "PYTHONPATH": str(Path(autometa.__file__).resolve().parents[1])}

    def wait(self) -> None:
        while "Ray runtime started" not in (self.folder / "head.log").read_text():
            assert self.process.poll() is None, (self.folder / "head.log").read_text()
            time.sleep(0.2)

    def stop(self) -> None:
        """End all processes of this cluster, and no others."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.folder).encode() in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
            except OSError:
                continue


@pytest.fixture
def head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Head]:
    if not Path("/proc/self/cmdline").exists() or not Path(sys.executable).with_name("ray").exists():
        pytest.skip("needs Linux and the command `ray`")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "home").mkdir()
    head = Head(tmp_path / "home")
    try:
        head.wait()
        yield head
    finally:
        head.stop()
        head.log.close()
        shutil.rmtree(head.folder, ignore_errors=True)


def search(head: Head, *arguments: str) -> subprocess.Popen[str]:
    command = search_digits("--space", "tiny.toml", "--study", "t", "--cold")
    pipe = subprocess.PIPE
    return subprocess.Popen([*command, *arguments], env=head.environment(), stdout=pipe, stderr=pipe, text=True)


def test_a_plain_cluster_is_joined_and_one_that_dies_is_one_line(head: Head) -> None:
    running = search(head, "--trials", "1", "--budget", "200000", "--address", f"127.0.0.1:{head.port}")
    try:
        assert running.stdout is not None
        seen: list[str] = []
        for line in running.stdout:
            seen.append(line)
            if "trial 0 started" in line:
                break
        joined = re.search(rf"joined the Ray cluster at (\S+:{head.port}): one node, 1 CPUs, 0 GPUs", "".join(seen))
        assert joined, seen
        assert "trial 0 started" in seen[-1]
        head.stop()
        _, err = running.communicate(timeout=50)  # Ray itself ends the process after 60 seconds
    finally:
        running.kill()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    said = f"error: the Ray cluster at {joined[1]} is gone; what was done is kept: the same command continues"
    assert lines == [said], err
    assert "Traceback" not in err
    assert running.returncode == 2
    study = load_study("t", open_storage("sqlite:///runs/autometa.db", create=False))
    assert [t.state for t in study.trials] == [TrialState.RUNNING], "left for the next search"


def test_where_there_is_no_cluster_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY)
    (port,) = free_ports(1)
    command = search_digits("--space", "tiny.toml", "--address", f"127.0.0.1:{port}")
    environment = {**os.environ, "PYTHONPATH": str(Path(autometa.__file__).resolve().parents[1])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: no Ray cluster at 127.0.0.1:{port}: Connection refused\n"
