"""The compiled kernels are loaded from where nobody else can put them, and compiled again where they are damaged."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from autometa.learning.ops import compiled, native

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
OTHER_USER = 12345


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and a folder for temporary files of this test alone, and a compiler that is quick."""
    monkeypatch.setattr(compiled, "_FLAGS", ("-O0",))
    monkeypatch.setenv("AUTOMETA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path


@pytest.fixture
def forgotten() -> Iterator[None]:
    """As in a new process: no library has been asked for."""
    native._library.cache_clear()
    native._asked.clear()
    yield
    native._library.cache_clear()


def file_of(library: ctypes.CDLL) -> Path:
    return Path(library._name)


def test_a_second_process_loads_what_the_first_compiled(tmp_path: Path) -> None:
    file = file_of(compiled.load("float"))
    made = file.stat()
    assert file.parent == tmp_path / "cache" / "kernels"
    again = file_of(compiled.load("float"))
    assert (again, again.stat().st_mtime_ns) == (file, made.st_mtime_ns)
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert made.st_mode & 0o777 == 0o700


@pytest.mark.parametrize("damage", ["empty", "cut short", "another byte"])
def test_a_damaged_library_is_compiled_again(damage: str) -> None:
    file = file_of(compiled.load("float"))
    whole = file.read_bytes()
    changed = bytes([whole[9000] ^ 1])
    damaged = {
        "empty": b"",
        "cut short": whole[: len(whole) // 2],
        "another byte": whole[:9000] + changed + whole[9001:],
    }
    # A new file, as the old one is in this process's memory.
    file.unlink()
    file.write_bytes(damaged[damage])
    file.chmod(0o700)
    again = compiled.load("float")
    assert file_of(again).read_bytes() == whole
    assert again.block_workspace


def test_a_library_that_others_may_write_is_compiled_again() -> None:
    file = file_of(compiled.load("float"))
    file.chmod(0o777)
    again = file_of(compiled.load("float"))
    assert again.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_library_of_another_user_is_compiled_again() -> None:
    file = file_of(compiled.load("float"))
    os.chown(file, OTHER_USER, OTHER_USER)
    assert file_of(compiled.load("float")).stat().st_uid == os.geteuid()


def test_an_own_folder_that_is_open_to_all_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "kernels"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert file_of(compiled.load("float")).parent == folder
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_cache_that_is_open_to_all_is_not_for_what_is_executed(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    private = tmp_path / "temporary" / f"autometa-kernels-{os.geteuid()}"
    assert file_of(compiled.load("float")).parent == private
    assert private.stat().st_mode & 0o777 == 0o700


def test_a_folder_as_tmp_is_may_hold_the_cache(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o1777)  # nobody may rename there what belongs to others
    assert file_of(compiled.load("float")).parent == tmp_path / "cache" / "kernels"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_folders_of_another_user_hold_no_kernels(tmp_path: Path) -> None:
    for folder in (tmp_path / "cache" / "kernels", tmp_path / "temporary" / f"autometa-kernels-{os.geteuid()}"):
        folder.mkdir(parents=True)
        os.chown(folder, OTHER_USER, OTHER_USER)
    with pytest.raises(compiled.NoKernelsError, match="cache/kernels: it belongs to another user"):
        compiled.load("float")


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="asks Linux for the names of open files")
def test_a_library_is_on_disk_before_it_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    on_disk = []
    fsync = os.fsync

    def noted(entry: int) -> None:
        on_disk.append(Path(os.readlink(f"/proc/self/fd/{entry}")))
        fsync(entry)

    monkeypatch.setattr(os, "fsync", noted)
    file = file_of(compiled.load("float"))
    draft, folder = on_disk
    assert draft.parent.parent == folder == file.parent
    assert draft != file


@pytest.mark.usefixtures("forgotten")
def test_one_warning_where_there_is_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.warns(RuntimeWarning, match="kernels are not used: there is no C compiler") as told:
        found = [native.is_available(torch.float32) for _ in range(3)]
    assert found == [False] * 3
    assert len(told) == 1
    assert native.use() == "not used: there is no C compiler (cc, gcc or clang)"


@pytest.mark.usefixtures("forgotten")
def test_the_warning_says_what_the_compiler_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "cc"
    compiler.write_text("#!/bin/sh\necho 'cc: unknown option: -fassociative-math' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.warns(RuntimeWarning, match=r"not used: .*/cc failed: cc: unknown option: -fassociative-math"):
        assert not native.is_available(torch.float64)


@pytest.mark.usefixtures("forgotten")
def test_whoever_turns_them_off_is_not_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOMETA_KERNELS", "off")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not native.is_available(torch.float32)
    assert native.use() == "off"


@pytest.mark.usefixtures("forgotten")
def test_it_is_known_whether_they_were_used() -> None:
    assert native.use() is None
    assert native.is_available(torch.float32)
    assert native.use() == "used"
