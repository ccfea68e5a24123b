"""The C code in `kernels/` as a library for this processor: compiled when it is first needed, kept, and loaded.

What is loaded runs with the user's rights. So it is kept where nobody else can put or change a file, under a name that
holds its digest, and whatever else is found there is compiled again. It knows nothing of tensors.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from autometa.data import cache

_SOURCES = sorted(Path(__file__).with_name("kernels").iterdir())
# No -ffast-math: it lets a compiler assume that no number is NaN, and diverged trials are known by theirs.
_FLAGS = ("-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math")
_SECONDS = 180  # on a busy machine; alone it takes 4
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class NoKernelsError(Exception):
    """There is no library here; the message says why."""


def load(real: str) -> ctypes.CDLL:
    """The library for REAL = float or double: the one that is kept, else a new one.

    Raises:
        NoKernelsError: it cannot be compiled, kept or loaded.
    """
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise NoKernelsError("there is no C compiler (cc, gcc or clang)")
    name = _fingerprint(compiler, real)
    reasons = []
    for folder in _folders():
        try:
            _close_to_others(folder)
            return _kept(folder, name) or ctypes.CDLL(str(_compiled(compiler, real, folder, name)))
        except OSError as error:
            reasons.append(f"{folder}: {error.strerror or error}")
        except subprocess.SubprocessError as error:
            raise NoKernelsError(_in_words(compiler, error)) from None
    raise NoKernelsError("; ".join(reasons))


def _folders() -> tuple[Path, Path]:
    """Where to keep them, the first that serves: a cache that several users share is not for what one of them runs."""
    return cache.root() / "kernels", Path(tempfile.gettempdir()) / f"autometa-kernels-{os.geteuid()}"


def _close_to_others(folder: Path) -> None:
    """Make the folder where there is none; raises `PermissionError` where others could put a file into it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.stat()
    if found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)
    if not _is_ours(folder.stat()):
        raise PermissionError(0, "it belongs to another user, or others may write there")
    # Whoever owns the root of all folders can do anything in any case; in a container that may be nobody.
    system = Path("/").stat().st_uid
    for above in folder.resolve().parents:
        mode = above.stat()
        is_sticky = bool(mode.st_mode & stat.S_ISVTX)  # as /tmp: others may not rename what is there
        if not (_is_ours(mode, system, is_sticky=is_sticky)):
            raise PermissionError(0, f"others may put another folder in its place, by {above}")


def _is_ours(found: os.stat_result, *more: int, is_sticky: bool = False) -> bool:
    """Whether nobody but this user, the system's, and `more` can change it."""
    return found.st_uid in (os.geteuid(), 0, *more) and (is_sticky or not found.st_mode & _OTHERS_WRITE)


def _kept(folder: Path, name: str) -> ctypes.CDLL | None:
    """The library compiled before, if there is one that is whole, and loads; what is not is removed."""
    for file in sorted(folder.glob(f"{name}-*.so")):
        try:
            if _is_ours(file.lstat()) and _digest(file) == file.stem.removeprefix(f"{name}-"):
                return ctypes.CDLL(str(file))
        except OSError:  # compiled again below
            pass
        file.unlink(missing_ok=True)
    return None


def _compiled(compiler: str, real: str, folder: Path, name: str) -> Path:
    """A new library, on disk before it has its name."""
    with tempfile.TemporaryDirectory(dir=folder) as draft:
        made = Path(draft) / "made.so"
        command = [compiler, f"-DREAL={real}", *_FLAGS, "-fPIC", "-shared", "-o", str(made)]
        command += [str(source) for source in _SOURCES if source.suffix == ".c"]
        # torch has loaded an OpenMP already, and its threads serve here as well; Apple's clang has none.
        for openmp in (["-fopenmp"], []):
            done = subprocess.run([*command, *openmp], capture_output=True, timeout=_SECONDS, check=not openmp)
            if done.returncode == 0:
                break
        made.chmod(0o700)
        _sync(made)
        path = folder / f"{name}-{_digest(made)}.so"
        made.replace(path)  # at once: other workers may be doing the same
    _sync(folder)
    return path


def _sync(path: Path) -> None:
    entry = os.open(path, os.O_RDONLY)
    try:
        os.fsync(entry)
    finally:
        os.close(entry)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:20]


def _in_words(compiler: str, error: subprocess.SubprocessError) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        said: Iterator[str] = iter(error.stderr.decode(errors="replace").strip().splitlines())
        return f"{compiler} failed: {next(said, f'exit code {error.returncode}')}"
    return f"{compiler} took longer than {_SECONDS} s"


def _fingerprint(compiler: str, real: str) -> str:
    """What the code depends on: a cache may be shared by machines with other processors."""
    code = [source.read_text() for source in _SOURCES]
    parts = (*code, str(_FLAGS), real, os.path.realpath(compiler), platform.platform(), _processor())
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:20]


def _processor() -> str:
    """What it can do, as far as the system says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
