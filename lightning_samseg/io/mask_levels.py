"""Which values the masks of a data set hold: every file is looked at once, and what was seen is kept on disk."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from lightning_samseg.errors import UserError
from lightning_samseg.io.files import atomic_write, cache_dir
from lightning_samseg.io.masks import Form, StoredMask, read_stored_mask, without_ignored
from lightning_samseg.io.volumes import is_volume, open_volume, read_slice

MOST = 256
"""Distinct values that are kept of a file; of more, so many evenly chosen ones."""
MOST_CLASSES = 31
"""Largest class id that is believed without a list of classes; a larger value is rather a grey level or an object."""
_VERSION = 2  # of what is kept
_THREADS = 4


class Levels(NamedTuple):
    """What one mask file holds. Ignored pixels have been set to 0."""

    form: Form
    colour: str
    """Of the brightest pixels; empty for grey."""
    dtype: str
    """Type of the numbers."""
    values: tuple[float, ...]
    """Distinct values but 0, ascending; of more than ``MOST`` so many evenly chosen ones, with the first and last."""
    distinct: int
    """Number of distinct values but 0."""
    flat: tuple[tuple[float, int], ...]
    """Values but 0 that fill some square of 3 x 3 pixels, each with the number of such squares; at most ``MOST``."""
    bright: int
    """Pixels in the highest eighth of the range that the highest value belongs to (``range_end``); 0 if to none."""
    dim: int
    """Pixels in its lowest eighth, but for 0."""
    whole: bool
    """Whether all values are whole numbers of at least 0."""
    pieces: int
    """Values but 0 that are in one piece (8-connected); counted for pictures of at most ``MOST_CLASSES`` values."""
    ignored: bool
    """Whether some pixel is ignored."""

    @property
    def high(self) -> float:
        """Highest value; 0 for an empty mask."""
        return max(self.values, default=0.0)


def range_end(high: float) -> float | None:
    """End of the range of which ``high`` is the highest value found: 1, 255 or 65535; None if it is near none."""
    return next((end for end in (1.0, 255.0, 65535.0) if 7 / 8 * end <= high <= end), None)


def look_at(
    paths: Iterable[Path],
    ignore: int | None = None,
    indices: bool = False,
    progress: Callable[[Iterable[Path], int], Iterable[Path]] = lambda paths, _: paths,
) -> dict[Path, Levels]:
    """Look at all masks of a data set, or at what is known of those that have not changed in size and date.

    What was seen is kept in ``$SAMSEG_CACHE/masks``, a file for each set of options and folder; any number of processes
    may share it.

    Args:
        paths: Pictures and volumes.
        ignore: Value that counts for nothing.
        indices: Take the indices of every palette.
        progress: Called with the files that have to be read and their number; gives them back one by one.

    Returns:
        What each file holds, in the order of ``paths``; files that cannot be read are left out.
    """
    paths = list(dict.fromkeys(paths))
    known: dict[Path, dict[str, Any]] = {}
    found: dict[Path, Levels] = {}
    stamps = {path: _stamp(path) for path in paths}
    for path in paths:
        store = _store(path.parent, ignore, indices)
        if store not in known:
            known[store] = _load(store)
        stamp, entry = known[store].get(path.name, ([], None))
        if stamp == stamps[path] and (levels := _unpacked(entry)):
            found[path] = levels
    fresh = [path for path in paths if path not in found and stamps[path]]

    def look(path: Path) -> Levels | None:
        with suppress(UserError):  # said when the file is needed
            return levels_of(path, ignore, indices)
        return None

    pictures, volumes = ([path for path in fresh if is_volume(path) == volume] for volume in (False, True))
    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            looked = chain(pool.map(look, pictures), map(look, volumes))  # few decoded volumes fit into the memory
            for path, seen in zip(progress([*pictures, *volumes], len(fresh)), looked, strict=True):
                if seen is not None:
                    found[path] = seen
                    known[_store(path.parent, ignore, indices)][path.name] = [stamps[path], seen]
    finally:
        for store in dict.fromkeys(_store(path.parent, ignore, indices) for path in fresh):
            _keep(store, known[store])
    return {path: found[path] for path in paths if path in found}


def levels_of(path: Path, ignore: int | None = None, indices: bool = False) -> Levels:
    """Look at one mask.

    Raises:
        UserError: If it cannot be read.
    """
    counts: dict[float, int] = {}
    flat: dict[float, int] = {}
    whole, ignored, pieces = True, False, 0
    for stored in _slices(path, indices):
        values, out = without_ignored(stored, ignore)
        values = values.view(np.uint8) if values.dtype == bool else values
        ignored |= bool(out.any())
        _add(counts, values)
        _add(flat, values[1:-1, 1:-1][_flat(values)])
        whole &= values.dtype.kind == "u" or bool((values >= 0).all() and (values == np.rint(values)).all())
        if not is_volume(path) and whole and len(counts) <= MOST_CLASSES + 1:
            pieces = sum(cv2.connectedComponents((values == v).view(np.uint8))[0] == 2 for v in counts if v)
    for each in (counts, flat):
        each.pop(0.0, None)
    distinct = sorted(counts)
    end = range_end(distinct[-1]) if distinct else None
    return Levels(
        form=stored.form,
        colour=stored.colour,
        dtype=str(stored.values.dtype),
        values=_thinned(distinct),
        distinct=len(distinct),
        flat=tuple((value, flat[value]) for value in _thinned(sorted(flat))),
        bright=0 if end is None else sum(count for value, count in counts.items() if value >= 7 / 8 * end),
        dim=0 if end is None else sum(count for value, count in counts.items() if value <= 1 / 8 * end),
        whole=whole,
        pieces=pieces,
        ignored=ignored,
    )


def _slices(path: Path, indices: bool) -> Iterator[StoredMask]:
    if not is_volume(path):
        yield read_stored_mask(path, indices)
        return
    volume = open_volume(path)
    for index in range(volume.shape[0]):
        yield StoredMask(read_slice(volume, index))


def _add(counts: dict[float, int], values: np.ndarray) -> None:
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        numbers = np.bincount(values.ravel())
        distinct = np.flatnonzero(numbers)
        numbers = numbers[distinct]
    else:
        distinct, numbers = np.unique(values, return_counts=True)
    for value, number in zip(distinct.tolist(), numbers.tolist(), strict=True):
        counts[float(value)] = counts.get(float(value), 0) + number


def _flat(values: np.ndarray) -> np.ndarray:
    """Where a pixel and its 8 neighbours are equal: bool, without the border."""
    across = values[:, 1:] == values[:, :-1]
    row = across[:, 1:] & across[:, :-1]
    down = values[1:, 1:-1] == values[:-1, 1:-1]
    return np.asarray(row[:-2] & row[1:-1] & row[2:] & down[:-1] & down[1:])


def _thinned(values: list[float]) -> tuple[float, ...]:
    if len(values) <= MOST:
        return tuple(values)
    return tuple(values[place] for place in np.linspace(0, len(values) - 1, MOST).round().astype(int))


def _stamp(path: Path) -> list[int]:
    with suppress(OSError):
        stat = path.stat()
        return [stat.st_size, stat.st_mtime_ns]
    return []


def _store(folder: Path, ignore: int | None, indices: bool) -> Path:
    key = hashlib.sha256(repr((_VERSION, str(folder.absolute()), ignore, indices)).encode()).hexdigest()
    return cache_dir() / "masks" / f"{key[:32]}.json"


def _load(store: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        entries = json.loads(store.read_text(encoding="utf-8"))
        if isinstance(entries, dict):
            return entries
    return {}


def _keep(store: Path, entries: dict[str, Any]) -> None:
    with suppress(OSError), atomic_write(store) as temporary:  # a full or read-only disk: it is looked at again
        temporary.write_text(json.dumps(entries), encoding="utf-8")


def _unpacked(entry: Any) -> Levels | None:
    try:
        levels = Levels(*entry)
        return levels._replace(values=tuple(levels.values), flat=tuple((value, count) for value, count in levels.flat))
    except (TypeError, ValueError):
        return None
