"""A PostgreSQL server for tests, where its programs are installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_USER = "nobody"  # PostgreSQL refuses to run as root


@contextmanager
def server() -> Iterator[str]:
    """Its URL, with an empty database; gone at the end."""
    pytest.importorskip("psycopg")
    if not (shutil.which("initdb") and shutil.which("pg_ctl")):
        pytest.skip("initdb and pg_ctl of PostgreSQL are not installed")
    is_root = os.geteuid() == 0
    folder = Path(tempfile.mkdtemp())
    if is_root:
        shutil.chown(folder, _USER)

    def run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, user=_USER if is_root else None, cwd=folder)

    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    data = f"{folder}/data"
    try:
        run("initdb", "-D", data, "-A", "trust", "-U", _USER)
        # Its log goes to a file: the server keeps a pipe open that it inherits.
        options = f"-p {port} -k {folder}"
        run("pg_ctl", "-D", data, "-l", f"{folder}/log", "-o", options, "-w", "start")
        yield f"postgresql+psycopg://{_USER}@localhost:{port}/postgres"
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
