"""Files and folders that are either complete or absent, and the place for what can be fetched or made again."""

import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def cache_dir() -> Path:
    """Folder for weights, generated data and other things that can be made again. It need not exist yet.

    Returns:
        ``$SAMSEG_CACHE`` where set, else ``lightning_samseg`` in the user's cache folder of this platform
        (``$XDG_CACHE_HOME`` or ``~/.cache``, ``~/Library/Caches``, ``%LOCALAPPDATA%``).
    """
    if chosen := os.environ.get("SAMSEG_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "lightning_samseg"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file so that its name never shows a half-written one.

    Yields a temporary name in the same folder with the same suffix (libraries infer the format from it). If the block
    ends well, the temporary file replaces ``path`` in one step; if it raises, the file is removed and an older ``path``
    is untouched. Missing parent folders are made.

    Args:
        path: The file to be written.

    Yields:
        The name to write to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(path)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        _name_final(error, temporary, path)
        raise
    finally:
        with suppress(OSError):  # of a disk that can only be read: what has gone wrong before is what counts
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Fill a folder so that its name never shows a half-filled one, whatever number of processes try.

    Yields an empty temporary folder beside ``path``. If the block ends well, it is renamed to ``path``; if another
    process was first, its folder stays and ours is dropped. If the block raises, nothing is left.

    Args:
        path: The folder to be made; must be absent or empty for ours to be taken.

    Yields:
        The folder to fill.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(path)
    try:
        temporary.mkdir()
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if not path.is_dir():  # not a lost race
                raise
    except OSError as error:
        _name_final(error, temporary, path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _name_final(error: OSError, temporary: Path, path: Path) -> None:
    """Let an error name the file that was to be written. Of a full disk the system does not say which file it was."""
    if error.errno is not None:
        error.filename = str(path) if error.filename is None else str(error.filename).replace(str(temporary), str(path))


def _temporary_sibling(path: Path) -> Path:
    # A name may have 255 bytes: of a long one, the temporary one shows the beginning.
    return path.with_name(f".{path.stem[:40]}.{uuid.uuid4().hex[:12]}.part{path.suffix[:20]}")
