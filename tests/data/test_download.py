"""Downloads, from a server on this machine: whole, resumed, damaged, and refused."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from autometa.data.catalog import Archive
from autometa.data.download import fetch, find
from autometa.errors import DataError

CONTENT = bytes(range(256)) * 9000
MD5 = hashlib.md5(CONTENT).hexdigest()


class _Server(BaseHTTPRequestHandler):
    ranges: list[str | None] = []
    breaks_after: int | None = None

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : type(self).breaks_after])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    _Server.ranges, _Server.breaks_after = [], None
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/a.zip"
    server.shutdown()


def test_a_download_is_whole_checked_and_in_place(url: str, tmp_path: Path) -> None:
    file = fetch(Archive("a.zip", url, MD5), tmp_path / "new")
    assert file.read_bytes() == CONTENT
    assert [p.name for p in file.parent.iterdir()] == ["a.zip"]


def test_a_broken_download_goes_on_where_it_stopped(url: str, tmp_path: Path) -> None:
    _Server.breaks_after = 1_000_000
    with pytest.raises(DataError, match=r"cannot be fetched .*--data-root"):
        fetch(Archive("a.zip", url, MD5), tmp_path)
    assert (tmp_path / "a.zip.part").stat().st_size == 1_000_000
    _Server.breaks_after = None
    assert fetch(Archive("a.zip", url, MD5), tmp_path).read_bytes() == CONTENT
    assert _Server.ranges == [None, "bytes=1000000-"]


def test_a_wrong_checksum_removes_the_file(url: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="wrong checksum"):
        fetch(Archive("a.zip", url, "0" * 32), tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_network_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="AUTOMETA_DATA"):
        fetch(Archive("a.zip", "http://127.0.0.1:9/a.zip"), tmp_path)


def test_an_archive_is_found_where_people_put_it(tmp_path: Path) -> None:
    archive = Archive("a.zip", "")
    assert find(archive, [tmp_path / "nowhere", tmp_path], "set") is None
    for place in ("any/a.zip", "set/a.zip", "a.zip"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
        assert find(archive, [tmp_path], "set") == tmp_path / place
