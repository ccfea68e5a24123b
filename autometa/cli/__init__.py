"""The command line. It only translates: arguments in, calls of the package, words and exit codes out.

`main` is the one place where an error becomes a line on stderr: 2 for what the user can put right,
130 for Ctrl-C. Heavy imports happen inside the commands, so `--help` answers at once.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

from autometa.cli.app import app
from autometa.errors import AutometaError, write_trouble


def main() -> None:
    """Entry point of the `autometa` command."""
    warnings.showwarning = _warn
    if any(argument.startswith("--storage") for argument in sys.argv):
        from autometa.hpo.storage_url import hide_from_others

        hide_from_others()
    try:
        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        code = 130
    except AutometaError as error:
        code = _complain(str(error))
    except OSError as error:
        trouble = write_trouble(error)
        if trouble is None:
            raise
        code = _complain(f"{error.filename or 'output'}: {trouble}")
    except Exception as error:
        # typer brings its own copy of click or not, by version; a usage error is known by its method.
        if not hasattr(error, "format_message"):
            raise
        code = _complain(error.format_message(), getattr(error, "exit_code", 2))
    sys.stdout.flush()
    sys.exit(code if isinstance(code, int) else 0)


def _warn(message: Warning | str, category: type[Warning], filename: str, *where: Any, **more: Any) -> None:
    """A warning of this package in one line; others say where they come from."""
    if Path(__file__).parents[1] in Path(filename).parents:
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
    else:
        _SHOW(message, category, filename, *where, **more)


_SHOW = warnings.showwarning


def _complain(message: str, code: int = 2) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


__all__ = ["app", "main"]
