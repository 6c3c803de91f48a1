"""The server's process: a port, a token, a browser, and an end that loses nothing."""

import contextlib
import errno
import html
import os
import secrets
import signal
import socket
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from lightning_samseg.annotate.engine import Engine
from lightning_samseg.errors import UserError
from lightning_samseg.io.files import atomic_write

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def bind(host: str, port: int) -> socket.socket:
    """Take a port.

    Args:
        host: Address to listen on.
        port: 0: any that is free.

    Raises:
        UserError: If it is taken, or not to be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken = socket.socket(family)
    if os.name == "posix":
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((host, port))
    except (OSError, OverflowError) as error:
        taken.close()
        used = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        raise UserError(
            f"The port {port} of {host} is {'taken by another program' if used else 'not to be had'}.",
            found=str(error),
            fix="give another one with --port, or 0 for any that is free",
        ) from error
    return taken


def new_tokens(people: Sequence[str]) -> dict[str, str]:
    """A token of 256 bits for each person: author by token."""
    return {secrets.token_urlsafe(32): name for name in people or [""]}


@contextlib.contextmanager
def doorway(folder: Path, url: str) -> Iterator[Path]:
    """A file that only its owner can read and that leads a browser to a URL: no command line shows the token."""
    path = folder / ".open.html"
    place = html.escape(url, quote=True)
    with atomic_write(path) as temporary:
        temporary.touch(0o600)
        temporary.write_text(
            f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={place}">'
            f'<a href="{place}">annotate</a>\n',
            encoding="utf-8",
        )
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


class _Server(uvicorn.Server):
    """Ends listeners when it is told to stop, so that they do not hold it."""

    def __init__(self, config: uvicorn.Config, engine: Engine) -> None:
        super().__init__(config)
        self._engine = engine

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._engine.events.close()
        super().handle_exit(sig, frame)


def serve(app: ASGIApp, engine: Engine, port: socket.socket) -> None:
    """Serve until Ctrl-C or SIGTERM; then return."""
    config = uvicorn.Config(
        app, access_log=False, log_level="warning", lifespan="off", timeout_graceful_shutdown=3, ws="none"
    )
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # uvicorn raises it again when it has stopped
    try:
        with contextlib.suppress(KeyboardInterrupt):
            _Server(config, engine).run(sockets=[port])
    finally:
        signal.signal(signal.SIGTERM, before)
        port.close()


def open_browser(path: Path) -> bool:
    """Show a file in the user's browser, if there is one."""
    try:
        return webbrowser.open(path.resolve().as_uri())
    except (webbrowser.Error, OSError):
        return False
