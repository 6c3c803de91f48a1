"""Files and folders that are either complete or absent, and the place for what can be fetched or made again."""

import errno
import os
import re
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
def atomic_write(path: str | Path, *, previous: str | Path | None = None, durable: bool = True) -> Iterator[Path]:
    """Write a file so that its name never shows a half-written one, whatever ends the program or the machine.

    Yields a temporary name in the same folder with the same suffix (libraries infer the format from it). If the block
    ends well, the temporary file replaces ``path`` in one step; if it raises, the file is removed and an older ``path``
    is untouched. Missing parent folders are made.

    Args:
        path: The file to be written.
        previous: Name in the same folder under which an older ``path`` is kept.
        durable: Wait for the disk, before the new name shows and after, so that a power cut leaves the old file or the
            new one. False for what is checked when it is read, such as a cache: waiting takes milliseconds a file.

    Yields:
        The name to write to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_sibling(path)
    try:
        yield temporary
        if durable:
            _wait_for_disk(temporary)
        if previous is not None:
            _keep(path, Path(previous))
        temporary.replace(path)
        if durable:
            _wait_for_disk(path.parent)
    except OSError as error:
        _name_final(error, temporary, path)
        raise
    finally:
        with suppress(OSError):  # of a disk that can only be read: what has gone wrong before is what counts
            temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed process has left in a folder in which nobody else writes now."""
    for path in folder.glob(".*.part*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


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


_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{12}\.part(\..*)?", re.DOTALL)


def _name_final(error: OSError, temporary: Path, path: Path) -> None:
    """Let an error name the file that was to be written. Of a full disk the system does not say which file it was."""
    if error.errno is not None:
        error.filename = str(path) if error.filename is None else str(error.filename).replace(str(temporary), str(path))


def _temporary_sibling(path: Path) -> Path:
    # A name may have 255 bytes: of a long one, the temporary one shows the beginning.
    return path.with_name(f".{path.stem[:40]}.{uuid.uuid4().hex[:12]}.part{path.suffix[:20]}")


def _keep(path: Path, previous: Path) -> None:
    """Give a file that is about to be replaced a second name."""
    if not path.exists():
        return
    link = _temporary_sibling(previous)
    try:
        os.link(path, link)
    except OSError:  # a file system without links: for a moment there is only the previous file
        path.replace(previous)
        return
    try:
        link.replace(previous)
    finally:
        link.unlink(missing_ok=True)  # it stays where both names were the same file already


def _wait_for_disk(path: Path) -> None:
    """Return when a file's content, or a folder's names, would survive a power cut, as far as the file system can."""
    if path.is_dir() and os.name != "posix":
        return
    number = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot be waited for
            raise
    finally:
        os.close(number)
