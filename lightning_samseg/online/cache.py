"""Logits of a frozen SAM on disk: computed once, used by every run of a grid."""

import hashlib
import io
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_samseg.io.files import atomic_write

ABANDONED_S = 3600
"""Age in seconds after which a temporary file is one of a killed process."""
PATIENCE_S = 60
"""Longest wait in seconds for another process that computes the same."""
DIGEST = 32
CLAIM = ".claim"


class LogitsCache:
    """One file per image and set of prompts, named by the hash of everything the logits depend on.

    What comes out is bit for bit what went in. Any number of processes may share a folder: files appear whole, what one
    process computes the others wait for instead of computing it too, and a file that another process removes is
    computed again. A file whose checksum is wrong is removed and counts as absent. When the folder outgrows its limit,
    files that have not been used for longest go first, down to nine tenths of it.

    Args:
        folder: Made when the first file is written.
        limit_bytes: Largest size of all files together.
    """

    def __init__(self, folder: str | Path, limit_bytes: int) -> None:
        self.folder = Path(folder)
        self.limit_bytes = limit_bytes
        self._size = 0
        self._unseen = math.inf  # bytes written since the folder was looked through

    def get_or_compute(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """Give the logits of a key.

        Args:
            key: From :func:`cache_key`.
            compute: Called if they are not there; its result is kept.

        Returns:
            Of ``compute``'s type, on the device of its result or else on the host.
        """
        found = self.get(key)
        if found is None:
            with _claim(self._path(key).parent):
                found = self.get(key)  # another process may have been at it
                if found is None:
                    found = compute()
                    self.put(key, found)
        return found

    def __contains__(self, key: str) -> bool:
        """Whether there is a file, sound or not."""
        return self._path(key).is_file()

    def get(self, key: str) -> Tensor | None:
        """Read the logits of a key onto the host, or None where there are no sound ones."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        with suppress(OSError):  # a file of somebody else, or a read-only disk
            os.utime(path)  # what was used last is removed last
        payload = memoryview(content)[DIGEST:]
        if hashlib.sha256(payload).digest() != content[:DIGEST]:
            path.unlink(missing_ok=True)
            return None
        return torch.from_numpy(np.load(io.BytesIO(payload), allow_pickle=False))

    def put(self, key: str, logits: Tensor) -> None:
        """Keep the logits of a key, if the disk takes them.

        Args:
            key: From :func:`cache_key`.
            logits: Of any floating type, shape and device.
        """
        buffer = io.BytesIO()
        np.save(buffer, logits.cpu().numpy(), allow_pickle=False)
        payload = buffer.getvalue()
        try:
            with atomic_write(self._path(key), durable=False) as temporary:
                temporary.write_bytes(hashlib.sha256(payload).digest() + payload)
        except OSError:
            return  # a full or read-only disk: the numbers are right all the same
        self._size += DIGEST + len(payload)
        self._unseen += DIGEST + len(payload)
        if self._unseen > self.limit_bytes / 20:  # other processes write, too
            self._size, self._unseen = sum(size for _, size, _ in self._files()), 0
        if self._size > self.limit_bytes:
            self._shrink()

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.logits"

    def _files(self) -> list[tuple[float, int, Path]]:
        """Time of last use, size and path of every file; leftovers of killed processes are removed."""
        files = []
        for path in self.folder.glob("*/*"):
            try:
                stat = path.stat()
            except OSError:
                continue  # another process was faster
            if path.suffix == ".logits" and not path.name.startswith("."):
                files.append((stat.st_mtime, stat.st_size, path))
            elif path.name != CLAIM and time.time() - stat.st_mtime > ABANDONED_S:
                path.unlink(missing_ok=True)
        return files

    def _shrink(self) -> None:
        files = sorted(self._files())
        self._size = sum(size for _, size, _ in files)
        for _, size, path in files:
            if self._size <= 0.9 * self.limit_bytes:
                return
            path.unlink(missing_ok=True)
            self._size -= size


@contextmanager
def _claim(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, after waiting for whoever holds it.

    It saves work, nothing more: who has waited too long, or finds a file system without locks, goes on without. The
    system releases the lock of a killed process.
    """
    with ExitStack() as opened:
        try:
            import fcntl  # not on Windows

            folder.mkdir(parents=True, exist_ok=True)
            file = opened.enter_context((folder / CLAIM).open("w"))
            end = time.monotonic() + PATIENCE_S
            while time.monotonic() < end:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.02)
        except (OSError, ImportError):
            pass
        yield


def cache_key(identity: str, image: NDArray[np.uint8], prompts: NDArray[Any], kind: str) -> str:
    """Name of what SAM answers to the prompts of an image.

    All prompts of an image go into one entry, because a network's output for one of them may depend in its last bits on
    which others shared its batch. For the same reason the identity has the number of images in a pass of the encoder,
    see ``online.prefetch``.

    Args:
        identity: Weights, preprocessing, precision, device and size of a pass, see ``FrozenSam.identity``.
        image: uint8 ``(H, W, 3)``.
        prompts: ``(m, 2)`` points or ``(m, 4)`` boxes in pixels of the image.
        kind: ``point`` or ``box``.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(f"{identity}\n{image.shape}\n{kind} {prompts.shape}\n".encode())
    digest.update(image.tobytes())
    digest.update(prompts.astype(np.float64).tobytes())
    return digest.hexdigest()
