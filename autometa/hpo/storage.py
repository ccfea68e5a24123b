"""Where studies are kept: any Optuna storage by URL, that of AUTOMETA_STORAGE or SQLite in `runs/` by default.

Turns every way in which a storage can be wrong into one line; it does not know what is in a study.
"""

from __future__ import annotations

import os
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

from autometa.errors import AutometaError, StorageError, StudyError, did_you_mean, write_trouble
from autometa.hpo.storage_url import JOURNAL, file_of, is_in_memory, is_readable, whole, without_secrets
from autometa.hpo.storage_url import RUNS as RUNS
from autometa.hpo.storage_url import default_url as default_url
from autometa.hpo.storage_url import masked as masked

_TABLES = {"studies", "trials", "version_info", "alembic_version"}


def open_storage(url: str, *, create: bool = True) -> BaseStorage:
    """Connect to `sqlite:///FILE`, `postgresql://…`, `mysql://…` or `journal:FILE`.

    SQLite runs in write-ahead mode: a report takes 3 ms in place of 18, and readers such as the dashboard
    never block the search. Keep the file on a local disk, not on NFS.

    Raises:
        StorageError: the URL is malformed or the storage cannot be reached; passwords are not shown.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = whole(url)
    file = file_of(url)
    if file is not None and not create and not file.is_file():
        raise StorageError(f"no studies yet: {file} does not exist; start one with `autometa search`")
    try:
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
        return _connect(url)
    except ImportError as error:
        raise _needs_driver(url, error) from None
    except _CANNOT_OPEN as error:
        raise StorageError(f"storage {masked(url)} cannot be opened: {_first_line(error, url)}") from None


@contextmanager
def reading(url: str) -> Iterator[BaseStorage]:
    """Connect to a storage, whoever made it, and leave it as it is: no table is made, no mode changed.

    Raises:
        StorageError: there is no such storage, it holds no Optuna studies, or it fails; passwords are not shown.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = whole(url)
    file = file_of(url)
    if file is not None and not file.is_file():
        raise StorageError(f"storage {masked(url)}: no studies there: {file} does not exist")
    try:
        storage = _connect_for_reading(url)
    except ImportError as error:
        raise _needs_driver(url, error) from None
    except _CANNOT_OPEN as error:
        raise StorageError(f"storage {masked(url)} cannot be read: {_first_line(error, url)}") from None
    try:
        with damage_told(url):
            yield storage
    finally:
        if isinstance(storage, RDBStorage):
            storage.remove_session()
            storage.engine.dispose()


def storage_exists(url: str) -> bool:
    """Whether a storage may hold studies; False only for a file that is not there."""
    file = file_of(whole(url))
    return file is None or file.is_file()


@contextmanager
def storage_failures(url: str) -> Iterator[None]:
    """Turn a storage that fails while it is used (a full disk, a lost server) into a `StorageError`."""
    try:
        yield
    except (exc.SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error.__cause__, exc.SQLAlchemyError) else error
        if _is_damage(cause):
            raise _damaged(url, cause) from None
        said = _first_line(cause, whole(url))
        raise StorageError(
            f"storage {masked(url)} failed: {said}; what it had is kept: the same command continues"
        ) from None


@contextmanager
def damage_told(url: str) -> Iterator[None]:
    """Turn whatever Optuna raises at what a damaged storage holds into a `StorageError`, where it is only read."""
    try:
        with storage_failures(url):
            yield
    except (AutometaError, OSError):
        raise
    except Exception as error:
        raise _damaged(url, error) from None


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
    if url.startswith(JOURNAL):
        return _journal(url.removeprefix(JOURNAL))
    _check(url)
    if not url.startswith("sqlite"):
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    # Two searches may share the file: a writer waits for the other rather than failing at once, and only one
    # makes the tables.
    file = file_of(url)
    with filelock.FileLock(f"{file}.lock") if file else nullcontext():
        storage = RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})
    event.listen(storage.engine, "connect", _write_ahead)
    storage.engine.dispose()
    return storage


def _journal(file: str) -> JournalStorage:
    try:
        return JournalStorage(_Journal(file))  # reads it whole
    except OSError:
        raise
    except Exception as error:  # one that Optuna did not write fails in many ways, a bare assert among them
        raise ValueError(f"not a journal of Optuna: {_first_line(error, JOURNAL + file)}") from None


def _check(url: str) -> None:
    """Raise `ValueError` where it is no URL of a storage that lasts."""
    if "://" not in url:
        raise ValueError("give sqlite:///FILE, postgresql://USER@HOST/DATABASE or journal:FILE")
    if not is_readable(url):
        raise ValueError("not a URL of a database; an @ or / in a password is written %40 or %2F there")
    if is_in_memory(url):
        raise ValueError("it is in memory and ends with this process; give sqlite:///FILE")


def _connect_for_reading(url: str) -> BaseStorage:
    if url.startswith(JOURNAL):
        return _connect(url)
    _check(url)
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


# A URL's query may hold an argument that the driver does not take, which is a TypeError.
_CANNOT_OPEN = (exc.SQLAlchemyError, ValueError, TypeError, LookupError, OSError, RuntimeError)


def _is_damage(error: BaseException) -> bool:
    """Whether what is stored cannot be read; a full disk and a lost server are other kinds."""
    if isinstance(error, optuna.exceptions.StorageInternalError):
        return error.__cause__ is not None and not isinstance(error.__cause__, OSError)
    is_text = "decode" in str(error) or "no such" in str(error)
    return type(error) is exc.DatabaseError or isinstance(error, exc.DataError) or is_text


def _damaged(url: str, error: BaseException) -> StorageError:
    said = _first_line(error, whole(url))
    return StorageError(f"storage {masked(url)} is damaged: {said}; restore a copy of it, or give another --storage")


def _first_line(error: BaseException, url: str) -> str:
    cause = getattr(error, "orig", None) or error
    lines = str(cause).strip().splitlines()
    return without_secrets(lines[0] if lines else type(cause).__name__, url)
