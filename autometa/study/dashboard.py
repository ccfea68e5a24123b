"""Serve optuna-dashboard on a storage. The page is Optuna's; this file only opens it safely."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna_dashboard

from autometa.errors import ConfigError
from autometa.hpo.storage import damage_told, open_storage


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of each request."""


def serve(url: str, host: str, port: int, *, on_ready: Callable[[str], None]) -> None:
    """Serve the dashboard until Ctrl-C; `on_ready` gets its address once it answers. Port 0 takes a free one.

    Raises:
        StorageError: nothing to show. ConfigError: the address is taken or not this machine's.
    """
    storage = open_storage(url, create=False)
    with damage_told(url):
        storage.get_all_studies()
    app = optuna_dashboard.wsgi(storage)
    try:
        server = make_server(host, port, app, handler_class=_Quiet)
    except (OSError, socket.gaierror) as error:
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
        raise ConfigError(f"{host}:{port} {why}; choose another --port or --host") from None
    with server:
        on_ready(f"http://{host}:{server.server_port}/dashboard")
        server.serve_forever()
