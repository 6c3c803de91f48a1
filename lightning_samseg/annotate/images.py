"""The images of a workspace: pictures and slices of volumes below a folder, each with an id. Needs no torch itself."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_samseg.errors import UserError
from lightning_samseg.io.images import to_rgb_uint8, write_mask_beside
from lightning_samseg.io.text import escape, nfc
from lightning_samseg.io.volumes import write_mask_like
from lightning_samseg.prediction.files import Source, find_sources
from lightning_samseg.types import Case

MOST_SIDE, MOST_PIXELS = 16384, 64_000_000
"""Of a picture that a browser's canvas can hold."""
HEAD = 1 << 20
"""Bytes of a file that tell whether it is the same."""
KEPT = 6
"""Images that stay decoded."""


@dataclass(frozen=True)
class WorkImage:
    """One picture, or one slice of a volume."""

    id: str
    source: Source
    index: int
    """Slice, from 0."""
    name: str
    """As ``cases.csv`` has it, and ``FolderDataModule``."""
    number: int
    """Place in the order in which images are offered, from 0."""


@dataclass(frozen=True)
class Failed:
    """A file of which not even the header can be read."""

    id: str
    name: str
    reason: str


def list_images(
    given: Path, output: Path, order: str = "sorted", seed: int = 0
) -> tuple[list[WorkImage], list[Failed], list[str]]:
    """List what there is to annotate.

    Args:
        given: Folder, or one file.
        output: The workspace, left out where it lies in the other.
        order: ``sorted``: by file name, letter by letter, as a stream of ``fit``. ``shuffled``: drawn from ``seed``;
            the slices of a volume stay together.
        seed: Of the shuffled order.

    Returns:
        The images, the volumes that cannot be opened, and what a user should know, a line each.

    Raises:
        UserError: If there is none.
    """
    sources, notes = find_sources(given, output)
    sources = sorted(sources, key=lambda source: nfc(str(source.path)))
    if order == "shuffled":
        sources = [sources[place] for place in np.random.default_rng((seed, 5)).permutation(len(sources))]
    images: list[WorkImage] = []
    failed = []
    for source in sources:
        try:
            slices = source.num_slices
        except UserError as error:
            failed.append(Failed(_id(source, 0), escape(nfc(source.name)), str(error)))
            continue
        for index in range(slices):
            name = escape(nfc(source.name)) + (f"_slice_{index + 1}" if slices > 1 else "")
            images.append(WorkImage(_id(source, index), source, index, name, len(images)))
    if not images:
        raise UserError(f"No image of {given} can be read.", found=failed[0].reason, fix="check --input")
    return images, failed, notes


def _id(source: Source, index: int) -> str:
    key = f"{nfc(source.relative.as_posix())}#{index}"
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:12]


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and hash of a file's first MB: whether it is still the same."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.sha256(file.read(HEAD)).hexdigest()}


class Pixels:
    """Reads images and keeps the last few."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, NDArray[Any]] = OrderedDict()
        self._lock = Lock()

    def raw(self, image: WorkImage) -> NDArray[Any]:
        """Values as they are shown: ``(H, W)`` of the file's depth, or uint8 ``(H, W, 3)``.

        Raises:
            UserError: If the file cannot be read, or is too large for a page.
        """
        with self._lock:
            if image.id in self._kept:
                self._kept.move_to_end(image.id)
                return self._kept[image.id]
        try:
            values = image.source.read(image.index)
        except UserError:
            raise
        except (OSError, ValueError, EOFError, MemoryError) as error:
            raise UserError(f"{image.source.path} cannot be read.", found=str(error), fix="check the file") from error
        height, width = values.shape[:2]
        if max(height, width) > MOST_SIDE or height * width > MOST_PIXELS:
            raise UserError(
                f"{image.source.path} is too large for the page.",
                expected=f"at most {MOST_SIDE:,} pixels a side and {MOST_PIXELS:,} in all",
                found=f"{width} x {height}",
                fix="cut it into tiles or make it smaller, and annotate those",
            )
        with self._lock:
            self._kept[image.id] = values
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return values

    def shown(self, image: WorkImage) -> NDArray[Any]:
        """As :meth:`raw`; colours of more than 8 bits are stretched to 8, as for SAM."""
        values = self.raw(image)
        return to_rgb_uint8(values) if values.ndim == 3 else values

    def rgb(self, image: WorkImage) -> NDArray[np.uint8]:
        """What SAM and the network see: uint8 ``(H, W, 3)``, as in a stream of ``fit``."""
        return np.asarray(to_rgb_uint8(self.raw(image)), np.uint8)

    def size(self, image: WorkImage) -> tuple[int, int]:
        """``(H, W)``."""
        height, width = self.raw(image).shape[:2]
        return height, width


def case_of(image: WorkImage, size: tuple[int, int]) -> Case:
    """The image as a case of a stream."""
    volume = image.source.volume
    spacing = None if volume is None or volume.spacing is None else volume.spacing[-2:]
    return Case(image.name, str(image.source.path), size, size, spacing)


def write_mask(folder: Path, images: Sequence[WorkImage], masks: Mapping[str, NDArray[np.uint8]]) -> Path:
    """Write the mask of a file: a PNG beside a picture's name, a volume in its own format and geometry.

    Args:
        folder: ``masks`` of the workspace.
        images: All images of one file.
        masks: uint8 ``(H, W)`` by id; slices without one are background, and those whose mask is of an earlier file of
            another size.

    Returns:
        The file.

    Raises:
        OSError: If the disk does not take it; an older file is untouched.
    """
    source = images[0].source
    path = folder / source.mask_name
    if source.volume is None:
        write_mask_beside(path, masks[images[0].id], source.path)
        return path
    write_mask_like(source.volume, path, volume_labels(images, masks))
    return path


def volume_labels(images: Sequence[WorkImage], masks: Mapping[str, NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Put the masks of a volume's slices together, uint8 ``(slices, H, W)``; see :func:`write_mask`."""
    volume = images[0].source.volume
    assert volume is not None
    labels = np.zeros(volume.shape, np.uint8)
    for image in images:
        if image.id in masks and masks[image.id].shape == volume.shape[1:]:
            labels[image.index] = masks[image.id]
    return labels
