"""Where the traceback goes of what ended the program: into the run folder, else into the system's temporary folder."""

import platform
import shlex
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

LOG = "error.log"


def keep_in(error: BaseException, folder: str | Path) -> None:
    """Say in which run folder the log of an exception belongs."""
    error.samseg_folder = Path(folder)  # type: ignore[attr-defined]


def write_log(error: BaseException, arguments: Sequence[str]) -> str:
    """Write the traceback of an exception.

    Args:
        error: The exception; see :func:`keep_in`.
        arguments: Those of the program.

    Returns:
        The file, or why there is none.
    """
    text = _text(error, arguments).encode("utf-8", "backslashreplace")
    folder: Path | None = getattr(error, "samseg_folder", None)
    try:
        if folder is not None and folder.is_dir():
            return str(_append(folder / LOG, text))
    except OSError:  # read-only or full, which may be what the log is about
        pass
    try:
        with tempfile.NamedTemporaryFile("wb", prefix="lightning_samseg-", suffix=".log", delete=False) as file:
            file.write(text)
        return file.name
    except OSError as reason:
        return f"none, it could not be written either ({reason}); SAMSEG_DEBUG=1 shows it"


def _append(path: Path, text: bytes) -> Path:
    """Add to a file, all of it or nothing."""
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(text) == len(text):
                return path
            raise OSError("the disk is full")
        except OSError:
            file.truncate(before)
            if not before:
                path.unlink()
            raise


def _text(error: BaseException, arguments: Sequence[str]) -> str:
    torch = sys.modules.get("torch")
    versions = f"Python {platform.python_version()}, torch {getattr(torch, '__version__', 'not imported')}"
    head = f"--- {time.strftime('%Y-%m-%dT%H:%M:%S%z')}, {versions}, {platform.platform()}"
    command = shlex.join(["python", "-m", "lightning_samseg", *arguments])
    return "\n".join([head, f"    {command}", *traceback.format_exception(error)])
