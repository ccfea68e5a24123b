"""Find a public archive on disk, or fetch it: resumable, checked, moved into place only when whole.

It does not know what is in an archive.
"""

from __future__ import annotations

import hashlib
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from autometa.data.catalog import Archive
from autometa.errors import DataError

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30


def find(archive: Archive, roots: list[Path], name: str) -> Path | None:
    """The archive under one of these folders: directly, in a folder of the data set's name, or one level down."""
    for root in roots:
        direct = [root / archive.file, root / name / archive.file]
        below = sorted(root.glob(f"*/{archive.file}")) if root.is_dir() else []
        for path in (*direct, *below):
            if path.is_file():
                return path
    return None


def fetch(archive: Archive, folder: Path) -> Path:
    """Download into `folder`, going on where an earlier attempt stopped.

    Raises:
        DataError: there is no network, the server refuses, or the checksum is wrong (the file is removed).
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, part = folder / archive.file, folder / f"{archive.file}.part"
    try:
        _download(archive, part)
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        why = getattr(error, "reason", None) or error
        raise DataError(
            f"{archive.file} is not on disk and cannot be fetched from {archive.url} ({why}); "
            "fetch it by hand and give its folder as --data-root or AUTOMETA_DATA"
        ) from None
    if archive.md5 and _md5(part) != archive.md5:
        part.unlink()
        raise DataError(f"{archive.file} from {archive.url} has a wrong checksum and was removed; try again")
    os.replace(part, target)
    return target


def _download(archive: Archive, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(archive.url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response: HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing left to send: the part is whole
            return
        raise
    with response:
        resumes = response.status == 206
        length = response.headers.get("Content-Length")
        total = int(length) + (have if resumes else 0) if length else None
        with part.open("ab" if resumes else "wb") as file, _bar(archive.file, have * resumes, total) as advance:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                advance(len(chunk))
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"the connection broke after {part.stat().st_size:,} of {total:,} bytes")


@contextmanager
def _bar(title: str, done: int, total: int | None) -> Iterator:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(title, total=total, completed=done)
        yield lambda count: progress.advance(task, count)


def _md5(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()
