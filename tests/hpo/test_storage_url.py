"""A storage's password is shown nowhere, and need not stand in a command line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import autometa
from autometa.errors import StorageError
from autometa.hpo.storage import open_storage
from autometa.hpo.storage_url import VARIABLE, default_url, file_of, masked, whole
from tests.commands import search_digits

SECRET = "t0p-s3cret"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://me:{SECRET}@host/base", "postgresql://me:***@host/base"),
        (f"postgresql://me:{SECRET}@host:5432/base", "postgresql://me:***@host:5432/base"),
        (f"postgresql://:{SECRET}@host/base", "postgresql://:***@host/base"),
        (f"postgresql+psycopg://me:%40{SECRET}@host/base", "postgresql+psycopg://me:***@host/base"),
        (f"postgresql://me:a/{SECRET}@host/base", "postgresql://me:***@host/base"),
        (f"postgresql://me:a:{SECRET}@host/base", "postgresql://me:***@host/base"),
        (f"postgresql://me:a@{SECRET}@host/base", "postgresql://***@host/base"),
        (f"postgresql://me:a@b/{SECRET}@host/base", "postgresql://***@host/base"),
        (f"postgresql://me:{SECRET}@host:port/base", "postgresql://***@host:port/base"),
        (f"postgresql:/me:{SECRET}@host/base", "postgresql:/***@host/base"),
        (f"postgresql://host/base?user=me&password={SECRET}", "postgresql://host/base?password=***&user=me"),
        (f"postgresql://host/base?sslpassword={SECRET}", "postgresql://host/base?sslpassword=***"),
        (f"postgresql:/host/base?PASSWORD={SECRET}&a=b", "postgresql:/host/base?PASSWORD=***&a=b"),
        (f"mysql://me:{SECRET}@host/base?auth_token={SECRET}", "mysql://me:***@host/base?auth_token=***"),
        (f"mssql+pyodbc:///?odbc_connect=PWD%3D{SECRET}", "mssql+pyodbc:///?odbc_connect=***"),
        ("postgresql://me@host/base", "postgresql://me@host/base"),
        ("sqlite:///runs/me@home.db", "sqlite:///runs/me@home.db"),
        ("journal:runs/me@home.log", "journal:runs/me@home.log"),
        ("runs/me@home.csv", "runs/me@home.csv"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert masked(url) == shown


@pytest.mark.parametrize(
    "url",
    [
        "nonsense://me:{}@host/base",
        "postgresql:/me:{}@host/base",
        "postgresql://me:{}@host:port/base",
        "postgresql://me:a@{}@127.0.0.1:9/base",
        "postgresql://me:{}@127.0.0.1:9/base?passfile={}",
        "postgresql://127.0.0.1:9/base?password={}",
    ],
)
def test_no_error_shows_them(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError) as told:
        open_storage(url.replace("{}", SECRET))
    assert SECRET not in str(told.value)
    assert "***" in str(told.value)


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true", "://", "a://b"]
)
def test_a_storage_that_does_not_last_or_is_none_is_refused(url: str) -> None:
    with pytest.raises(StorageError, match="cannot be opened"):
        open_storage(url)


def test_a_query_is_no_part_of_the_file() -> None:
    assert file_of("sqlite:///runs/a.db?timeout=5") == Path("runs/a.db")
    assert file_of("journal:runs/a.log") == Path("runs/a.log")
    assert file_of("postgresql://host/base") is None


def test_the_url_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_url() == "sqlite:///runs/autometa.db"
    url = f"postgresql://me:{SECRET}@host/base"
    monkeypatch.setenv(VARIABLE, url)
    assert default_url() == url
    assert whole("postgresql://me:***@host/base") == url
    with pytest.raises(StorageError, match="set AUTOMETA_STORAGE to the whole URL"):
        whole("postgresql://me:***@another/base")


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="asks Linux for the process's command line")
def test_a_password_leaves_the_command_line(tmp_path: Path) -> None:
    """What Ray writes down of a driver is its command line."""
    code = (
        "import sys; from pathlib import Path; from autometa.hpo.storage_url import hide_from_others, whole;"
        "hide_from_others(); url = whole(sys.argv[-1].removeprefix('--storage='));"
        "print(Path('/proc/self/cmdline').read_text().split('\\0'), url)"
    )
    url = f"postgresql://me:{SECRET}@host/base"
    environment = {**os.environ, "PYTHONPATH": str(Path(autometa.__file__).resolve().parents[1])}
    for arguments in (["--storage", url], [f"--storage={url}"]):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        line, _, whole_url = done.stdout.strip().rpartition(" ")
        assert whole_url == url, done.stderr
        assert SECRET not in line
        assert "postgresql://me:***@host/base" in line


@pytest.fixture
def rays_folder() -> Iterator[Path]:
    """Where Ray writes its files; pytest's own folders have names that are too long for its sockets."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def test_no_file_and_no_line_of_a_search_has_the_password(tmp_path: Path, rays_folder: Path) -> None:
    (tmp_path / "tiny.toml").write_text('name = "tiny"\n[parameters."conv.width"]\nchoices = [4]\n')
    url = f"sqlite:///kept.db?password={SECRET}"  # which SQLite has no use for
    command = search_digits("--space", "tiny.toml", "--cold", "--trials", "1")
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(autometa.__file__).resolve().parents[1]),
        "RAY_TMPDIR": str(rays_folder),
    }
    done = subprocess.run(
        [*command, "--budget", "2", "--storage", url], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert "autometa export digits-5w1s-tiny --storage 'sqlite:///kept.db?password=***' -o" in done.stdout
    assert "set AUTOMETA_STORAGE to the whole URL" in done.stdout
    written = [f for root in (tmp_path, rays_folder) for f in root.rglob("*") if f.is_file()]
    assert (tmp_path / "kept.db") in written
    assert any("gcs_server" in f.name for f in written)
    assert [f for f in written if SECRET.encode() in f.read_bytes()] == []
