"""URLs of storages: the one to use, the file behind it, and how to show it without its secrets.

A command line is seen by everybody on a machine and is written into Ray's files. So a URL may come from
AUTOMETA_STORAGE, also the whole of one that is given with its password masked.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlalchemy import exc
from sqlalchemy.engine import URL, make_url

from autometa.errors import StorageError

RUNS = Path("runs")
VARIABLE = "AUTOMETA_STORAGE"
JOURNAL = "journal:"
_STARS = "***"
_SECRET = r"[^=&?]*(?:pass|pwd|secret|token|credential|odbc_connect)[^=&]*"
_SCHEME = re.compile(r"[A-Za-z][\w+.-]*:/")


def default_url(runs: Path = RUNS) -> str:
    """What AUTOMETA_STORAGE says, else the SQLite file that holds all studies of a working folder."""
    return os.environ.get(VARIABLE) or f"sqlite:///{runs / 'autometa.db'}"


def whole(url: str) -> str:
    """The URL, and where it came with its password masked, the one in AUTOMETA_STORAGE that it is.

    Raises:
        StorageError: it is masked, and AUTOMETA_STORAGE is another one or none.
    """
    if _STARS not in url:
        return url
    kept = os.environ.get(VARIABLE, "")
    if masked(kept) != url:
        raise StorageError(f"storage {masked(url)}: its password is not shown; set {VARIABLE} to the whole URL")
    return kept


def masked(url: str) -> str:
    """The URL without its password and other secrets, wherever they stand in it."""
    if not _SCHEME.match(url):
        return url
    parsed = _parsed(url)
    if parsed is None:  # what it would be is unknown: everything before the last @ may be a secret
        hidden = re.sub(r"(:/+).*@", rf"\1{_STARS}@", url, count=1, flags=re.DOTALL)
        return re.sub(rf"([?&]{_SECRET}=)[^&]*", rf"\1{_STARS}", hidden, flags=re.IGNORECASE)
    if not secrets(url):
        return url
    hidden_query = dict.fromkeys(_secret_names(parsed), _STARS)
    shown = parsed.update_query_dict(hidden_query).render_as_string(hide_password=True)
    return shown.replace("%2A%2A%2A", _STARS)


def secrets(url: str) -> list[str]:
    """The secret parts of a URL, as far as it can be read; none of one that cannot."""
    parsed = _parsed(url)
    if parsed is None:
        return []
    found = [str(parsed.password)] if parsed.password else []
    for name in _secret_names(parsed):
        value = parsed.query[name]
        found += [value] if isinstance(value, str) else list(value)
    return [secret for secret in found if secret != _STARS]


def is_readable(url: str) -> bool:
    """Whether SQLAlchemy reads its parts as they are meant."""
    return _parsed(url) is not None


def without_secrets(text: str, url: str) -> str:
    """A message about a URL, such as a driver's, without what is secret in it."""
    for secret in sorted(secrets(url), key=len, reverse=True):
        text = text.replace(secret, _STARS)
    return text


def file_of(url: str) -> Path | None:
    """The file in which a SQLite storage or a journal is kept; None of others, and of SQLite in memory."""
    if url.startswith(JOURNAL):
        return Path(url.removeprefix(JOURNAL))
    parsed = _parsed(url)
    if parsed is None or parsed.get_backend_name() != "sqlite" or is_in_memory(url):
        return None
    return Path(str(parsed.database).removeprefix("file:"))


def is_in_memory(url: str) -> bool:
    """Whether it is a SQLite storage that ends with its process."""
    parsed = _parsed(url)
    if parsed is None or parsed.get_backend_name() != "sqlite":
        return False
    return parsed.database in (None, "", ":memory:", "file::memory:") or parsed.query.get("mode") == "memory"


def hide_from_others() -> None:
    """Start this process again with the secrets of `--storage` in AUTOMETA_STORAGE, where only its user can see them.

    Nothing happens where the command line has none, or is not that of this process.
    """
    hidden = [argument for argument in _storages(sys.argv) if secrets(argument)]
    if not hidden or not sys.executable:
        return
    shown = list(sys.orig_argv)
    for at, argument in enumerate(shown):
        shown[at] = argument.replace(hidden[-1], masked(hidden[-1]))
    if shown != sys.orig_argv:
        os.execve(sys.executable, shown, {**os.environ, VARIABLE: hidden[-1]})


def _storages(arguments: Sequence[str]) -> Iterator[str]:
    for option, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if option == "--storage":
            yield value
        elif option.startswith("--storage="):
            yield option.partition("=")[2]


def _secret_names(url: URL) -> list[str]:
    return [name for name in url.query if re.fullmatch(_SECRET, name, re.IGNORECASE)]


def _parsed(url: str) -> URL | None:
    """Its parts; None where it has none, or where an `@` in its password put the rest of that elsewhere."""
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        return None
    is_torn = "@" in (parsed.host or "") or (parsed.host and "@" in (parsed.database or ""))
    return None if is_torn else parsed
