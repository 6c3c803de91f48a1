"""Decoded images and labels, kept on disk where decoding the source is slow.

Measured side by side on one busy core, image and label, decoded and from an entry: a slice of SSL4MIS's ACDC 3.6 and
1.8 ms, a JPEG of Kvasir 6.2 and 3.4, a BUSI image with its RGB mask 11.5 and 3.5, a PNG of GlaS 22 and 3.4, a PNG of
2048 x 1536 pixels 47 and 12; a slice of a compressed volume takes as long as the volume. HDF5's own compression of
pictures (lzf, gzip) takes as long as decoding the sources. Therefore only labels are compressed.
"""

import hashlib
import os
import re
import shutil
import sys
import time
import warnings
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from zlib import crc32

import h5py
import numpy as np

from data_modules.layouts import base
from data_modules.layouts.base import Item, Layout, check_known
from lightning_samseg.io import images
from lightning_samseg.io.files import atomic_write, cache_dir
from lightning_samseg.io.images import to_grey

_SLOW = 1e-3  # CPU seconds; reading a small entry takes less than half of it
_LOOK_AGAIN = 1 / 64  # share of the limit that a process writes before it looks at what the others have written


def default_folder() -> Path:
    """Folder of the entries; it need not exist."""
    return cache_dir() / "decoded"


class DecodedCache:
    """Reads pixels and labels of a layout's items, through one file an item where the source is slow to decode.

    An entry is found by the sha256 of the bytes of the item's files and of what is done with them: class, code and
    arguments of the layout, class id, slice, grey or not. A changed file, argument or line of code is another entry.
    Entries are written under a temporary name and renamed, so that any number of processes can share the folder
    without locks. Each is checked by a checksum when read; a damaged one is made again.

    Args:
        layout: Reads what is not here.
        limit_gb: Gigabytes (1e9 bytes) that the folder may hold; nothing is written beyond, but that each process may
            pass it by a 64th. 0: nothing is kept or read.
        folder: Where entries are; None: ``default_folder()``.
        slow: CPU seconds of decoding from which an item is kept.
    """

    def __init__(self, layout: Layout, limit_gb: float, folder: Path | None = None, slow: float = _SLOW) -> None:
        self.layout, self.limit, self.slow = layout, limit_gb * 1e9, slow
        self.folder = default_folder() if folder is None else folder
        self._digests: dict[Path, tuple[tuple[int, int], str]] = {}
        self._reading = ""
        self._written = 0  # bytes, by this process since it last looked
        self._held: float | None = None
        self._full = False

    def read(self, item: Item, labelled: bool, grey: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
        """Read an item.

        Args:
            item: The item.
            labelled: Whether its label is wanted; if not, no mask file is opened.
            grey: Turn colour into grey, as ``to_grey`` does.

        Returns:
            Pixels as ``Layout.read_image`` gives them, and the label, uint8 ``(H, W)``, or None.

        Raises:
            UserError: As the layout's ``read_image`` and ``read_label``.
        """
        if not self.limit:
            return _decode(self.layout, item, labelled, grey)
        path = self.path_of(item, labelled, grey)
        if path is not None and path.is_file() and (entry := _load(path, labelled)) is not None:
            return entry
        began = time.thread_time()
        pixels, label = _decode(self.layout, item, labelled, grey)
        if path is not None and time.thread_time() - began > self.slow:
            self._keep(path, pixels, label)
        return pixels, label

    def path_of(self, item: Item, labelled: bool, grey: bool = False) -> Path | None:
        """Give the file of an item's entry, there or not.

        None if the item's own files cannot be read, or are headers whose pixels are elsewhere (mhd), which are quick.
        """
        files = (item.image, *(item.masks if labelled else ()))
        if any(path.suffix.lower() == ".mhd" for path in files):
            return None
        try:
            digests = [self._digest(path) for path in files]
        except OSError:
            return None  # reading it says what is wrong
        self._reading = self._reading or _reading(self.layout)
        rule = self.layout.decided.rule if labelled and item.masks else None
        parts = (self._reading, rule, *digests, item.class_id, item.slice_index, item.num_slices, labelled, grey)
        key = hashlib.sha256(repr(parts).encode()).hexdigest()
        return self.folder / key[:2] / f"{key[2:34]}.h5"

    def _digest(self, path: Path) -> str:
        """Sha256 of a file's bytes, of which this process remembers those that it has seen with this size and time."""
        stat = path.stat()
        stamp = stat.st_size, stat.st_mtime_ns
        known = self._digests.get(path)
        if known is None or known[0] != stamp:
            digest = hashlib.sha256()
            with path.open("rb") as file:
                while part := file.read(1 << 20):
                    digest.update(part)
            known = stamp, digest.hexdigest()
            self._digests[path] = known
        return known[1]

    def _keep(self, path: Path, pixels: np.ndarray, label: np.ndarray | None) -> None:
        if self._held is None or self._written > self.limit * _LOOK_AGAIN:
            self._held, self._written = size_of(self.folder)[1], 0
        size = pixels.nbytes
        if self._held + size > self.limit:
            if not self._full:
                self._full = True
                warnings.warn(
                    f"no more decoded images are kept: {self.folder} holds {self._held / 1e9:.1f} GB; "
                    "raise data.cache_gb, or empty it with `data cache --clear`",
                    stacklevel=2,
                )
            return
        try:
            with atomic_write(path, durable=False) as temporary, h5py.File(temporary, "w", locking=False) as file:
                file.create_dataset("pixels", data=pixels).attrs["crc32"] = _checksum(pixels)
                if label is not None:
                    packed = file.create_dataset("label", data=label, chunks=label.shape, compression="lzf")
                    packed.attrs["crc32"] = _checksum(label)
        except OSError as error:
            self.limit = 0
            warnings.warn(f"decoded images are not kept: {self.folder}: {error}", stacklevel=2)
            return
        self._held += size
        self._written += size


def size_of(folder: Path) -> tuple[int, int]:
    """Number of entries in a folder, and their bytes; other processes may add and remove some meanwhile."""
    sizes = []
    for place, _, names in os.walk(folder):  # goes on where a folder has just gone
        for name in names:
            with suppress(FileNotFoundError):
                sizes.append(Path(place, name).stat().st_size)
    return len(sizes), sum(sizes)


def clear(folder: Path) -> None:
    """Remove all entries; they are made again when they are needed."""
    shutil.rmtree(folder, ignore_errors=True)


def _decode(layout: Layout, item: Item, labelled: bool, grey: bool) -> tuple[np.ndarray, np.ndarray | None]:
    pixels = layout.read_image(item)
    label = layout.read_label(item, (pixels.shape[0], pixels.shape[1])) if labelled else None
    if label is not None:
        check_known(label, layout, item)
    return to_grey(pixels) if grey else pixels, label


def _load(path: Path, labelled: bool) -> tuple[np.ndarray, np.ndarray | None] | None:
    """An entry; None if it is damaged, or another process has just removed it."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            arrays = [_checked(file[name]) for name in (("pixels", "label") if labelled else ("pixels",))]
    except (OSError, KeyError, RuntimeError, ValueError):
        return None
    return arrays[0], arrays[1] if labelled else None


def _checked(dataset: h5py.Dataset) -> np.ndarray:
    values = np.asarray(dataset[()])
    if _checksum(values) != dataset.attrs["crc32"]:
        raise ValueError("damaged")
    return values


def _checksum(values: np.ndarray) -> int:
    return crc32(np.ascontiguousarray(values).data)


def _reading(layout: Layout) -> str:
    """What decides how a layout turns files into arrays: its code and its arguments."""
    modules = [sys.modules[kind.__module__] for kind in type(layout).__mro__[:-1]]
    files = {Path(file) for module in modules if (file := getattr(module, "__file__", None))}
    for shared in (base.__file__, images.__file__):  # what layouts import from each other, and all readers of files
        files.update(Path(str(shared)).parent.glob("*.py"))
    code = [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files)]
    plain = (str, int, float, bool, tuple, Path, re.Pattern, type(None))
    arguments = {
        name: value
        for name, value in vars(layout).items()
        # Cached properties follow from the rest, and are there or not.
        if isinstance(value, plain) and not isinstance(getattr(type(layout), name, None), cached_property)
    }
    return repr((type(layout).__qualname__, code, sorted(arguments.items()), layout.class_names))
