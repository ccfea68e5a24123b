"""Where studies are kept: any Optuna storage by URL, SQLite in `runs/` by default.

Turns every way in which a storage can be wrong into one line; it does not know what is in a study.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import filelock
import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import event, exc

from autometa.errors import StorageError, StudyError, did_you_mean, write_trouble

RUNS = Path("runs")
_JOURNAL = "journal:"
_TABLES = {"studies", "trials", "version_info", "alembic_version"}


def default_url(runs: Path = RUNS) -> str:
    """The SQLite file that holds all studies of a working folder."""
    return f"sqlite:///{runs / 'autometa.db'}"


def open_storage(url: str, *, create: bool = True) -> BaseStorage:
    """Connect to `sqlite:///FILE`, `postgresql://…`, `mysql://…` or `journal:FILE`.

    SQLite runs in write-ahead mode: a report takes 3 ms in place of 18, and readers such as the dashboard
    never block the search. Keep the file on a local disk, not on NFS.

    Raises:
        StorageError: the URL is malformed or the storage cannot be reached; passwords are not shown.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file = _file_of(url)
    if file is not None and not create and not file.is_file():
        raise StorageError(f"no studies yet: {file} does not exist; start one with `autometa search`")
    try:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        return _connect(url)
    except ImportError as error:
        raise _needs_driver(url, error) from None
    except (exc.SQLAlchemyError, ValueError, OSError, RuntimeError) as error:
        raise StorageError(f"storage {masked(url)} cannot be opened: {_first_line(error)}") from None


@contextmanager
def reading(url: str) -> Iterator[BaseStorage]:
    """Connect to a storage, whoever made it, and leave it as it is: no table is made, no mode changed.

    Raises:
        StorageError: there is no such storage, it holds no Optuna studies, or it fails; passwords are not shown.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file = _file_of(url)
    if file is not None and not file.is_file():
        raise StorageError(f"storage {masked(url)}: no studies there: {file} does not exist")
    try:
        storage = _connect_for_reading(url)
    except ImportError as error:
        raise _needs_driver(url, error) from None
    except (exc.SQLAlchemyError, ValueError, OSError, RuntimeError) as error:
        raise StorageError(f"storage {masked(url)} cannot be read: {_first_line(error)}") from None
    try:
        with storage_failures(url):
            yield storage
    finally:
        if isinstance(storage, RDBStorage):
            storage.remove_session()
            storage.engine.dispose()


def storage_exists(url: str) -> bool:
    """Whether a storage may hold studies; False only for a file that is not there."""
    file = _file_of(url)
    return file is None or file.is_file()


def masked(url: str) -> str:
    """The URL without its password."""
    return re.sub(r"(://[^:/@]+):[^@]*@", r"\1:***@", url)


@contextmanager
def storage_failures(url: str) -> Iterator[None]:
    """Turn a storage that fails while it is used (a full disk, a lost server) into a `StorageError`."""
    try:
        yield
    except (exc.SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, exc.SQLAlchemyError) else error
        raise StorageError(
            f"storage {masked(url)} failed: {_first_line(cause)}; what it had is kept: the same command continues"
        ) from None


def load_study(name: str, storage: BaseStorage) -> optuna.Study:
    """The study of that name; raises `StudyError` naming the nearest one there is."""
    names = [summary.study_name for summary in storage.get_all_studies()]
    if name not in names:
        hint = did_you_mean(name, names) if names else "there are none yet"
        raise StudyError(f"unknown study {name!r}; {hint}")
    return optuna.load_study(study_name=name, storage=storage)


class _Journal(JournalFileBackend):
    """A journal whose disk may be full, which Optuna leaves to the system's own error, with half a line at its end."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = Path(path)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        try:
            super().append_logs(logs)
        except OSError as error:
            _drop_half_a_line(self._path)
            raise StorageInternalError(write_trouble(error) or str(error)) from error


def _drop_half_a_line(file: Path) -> None:
    """The next entry would be written behind it, and neither could be read again."""
    written = file.read_bytes()
    if written and not written.endswith(b"\n"):
        os.truncate(file, written.rfind(b"\n") + 1)


def _connect(url: str) -> BaseStorage:
    if url.startswith(_JOURNAL):
        return JournalStorage(_Journal(url.removeprefix(_JOURNAL)))
    if "://" not in url:
        raise ValueError("give sqlite:///FILE, postgresql://USER@HOST/DATABASE or journal:FILE")
    if not url.startswith("sqlite"):
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    # Two searches may share the file: a writer waits for the other rather than failing at once, and only one
    # makes the tables.
    file = _file_of(url)
    with filelock.FileLock(f"{file}.lock") if file else nullcontext():
        storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
    event.listen(storage.engine, "connect", _write_ahead)
    storage.engine.dispose()
    return storage


def _connect_for_reading(url: str) -> BaseStorage:
    if url.startswith(_JOURNAL):
        try:
            return _connect(url)  # reads it whole
        except Exception as error:  # a journal that Optuna did not write fails in many ways, a bare assert among them
            raise ValueError(f"not a journal of Optuna: {_first_line(error)}") from None
    engine = sqlalchemy.create_engine(url)
    try:
        if _TABLES - set(sqlalchemy.inspect(engine).get_table_names()):
            raise ValueError("it holds no Optuna studies")
    finally:
        engine.dispose()
    storage = RDBStorage(url, skip_table_creation=True)
    if url.startswith("sqlite"):
        event.listen(storage.engine, "connect", _read_only)
        storage.engine.dispose()
    return storage


def _needs_driver(url: str, error: ImportError) -> StorageError:
    return StorageError(
        f"storage {masked(url)}: needs a driver: {error.msg} (pip install 'autometa-search[postgresql]')"
    )


def _read_only(connection: Any, _record: Any) -> None:
    # Not `mode=ro` in the URL: that leaves the -wal and -shm files of a database in write-ahead mode behind.
    connection.execute("PRAGMA query_only=ON")


def _write_ahead(connection: Any, _record: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _file_of(url: str) -> Path | None:
    match = re.match(r"sqlite(\+\w+)?:///|journal:", url)
    return Path(url[match.end() :]) if match else None


def _first_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error
    return re.sub(
        r"(://[^:/@]+):[^@]*@",
        r"\1:***@",
        str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__,
    )
