"""RETOUCH's volumes on disk, as released (MetaImage) or prepared (h5), and the way from the one to the other."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import h5py
import numpy as np

from data_modules.layouts.base import natural_key
from lightning_samseg.errors import UserError
from lightning_samseg.io.alignment import aligned
from lightning_samseg.io.files import atomic_write
from lightning_samseg.io.metaimage import read_header, read_slice, read_volume
from lightning_samseg.io.volumes import open_volume

CLASSES = ("IRF", "SRF", "PED")
"""Intraretinal fluid, subretinal fluid, pigment epithelial detachment: values 1, 2, 3 of a reference."""
DEVICES = ("Cirrus", "Spectralis", "Topcon")
_FIX = "copy the volume again from the release, or prepare it again: python -m lightning_samseg data prepare retouch"


class Volume(NamedTuple):
    """One volume of one eye. Its header has been read, no voxel."""

    case_id: str
    """``DEVICE_TRAINnnn``."""
    device: str
    image: Path
    """``oct.mhd``, or the h5 file."""
    reference: Path
    """``reference.mhd``, or the h5 file."""
    shape: tuple[int, ...]
    """(B-scans, depth, across)."""
    spacing: tuple[float, ...]
    """Voxel size in mm in the same order."""

    @property
    def prepared(self) -> bool:
        """Whether it is an h5 file."""
        return self.image.suffix == ".h5"

    @property
    def misplaced(self) -> bool:
        """Whether the headers of a released image and its reference state other places or voxel sizes."""
        if self.prepared:
            return False
        try:
            return aligned(open_volume(self.reference), open_volume(self.image)).turned
        except UserError:
            return True

    def read(self, key: Literal["image", "label"], index: int) -> np.ndarray:
        """Read one B-scan ``(depth, across)`` as stored.

        Raises:
            UserError: If the file is damaged.
        """
        if not self.prepared:
            return read_slice(read_header(self.image if key == "image" else self.reference), index)
        with _opened(self.image) as file:
            return np.asarray(file[key][index])

    def fluid_pixels(self) -> np.ndarray:
        """Count the pixels of each class on each B-scan: int ``(B-scans, 3)``. Native references are read for it.

        Raises:
            UserError: If the file is damaged.
        """
        if not self.prepared:
            return _count(read_volume(read_header(self.reference)))
        with _opened(self.image) as file:
            return np.asarray(file["fluid_pixels"])


def find_volumes(root: Path, complain: Callable[[UserError], None]) -> Iterator[Volume]:
    """List the volumes of a folder by device, as prepared in ``data/`` where there are any, else as released.

    Args:
        root: Folder that holds ``data``, or ``Cirrus`` (``RETOUCH-TrainingSet-Cirrus``), ``Spectralis``, ``Topcon``.
        complain: Called with what is wrong with one volume, which is then left out.
    """
    files = (root / "data").glob("*_TRAIN*.h5") if (root / "data").is_dir() else ()
    prepared = sorted(files, key=lambda path: natural_key(path.name))
    for path in prepared:
        try:
            yield _prepared(path)
        except UserError as error:
            complain(error)
    for folder in [] if prepared else released_folders(root):
        try:
            yield released(folder)
        except UserError as error:
            complain(error)


def released_folders(root: Path) -> list[Path]:
    """List the folders ``TRAINnnn`` of all devices."""
    parents = (root / name for device in DEVICES for name in (device, f"RETOUCH-TrainingSet-{device}"))
    folders = (path for parent in parents if parent.is_dir() for path in parent.iterdir() if path.is_dir())
    found = [path for path in folders if re.fullmatch(r"TRAIN\d+", path.name)]
    return sorted(found, key=lambda path: (path.parent.name, natural_key(path.name)))


def released(folder: Path) -> Volume:
    """Read the headers of one released volume.

    Raises:
        UserError: If a file is missing or damaged, or image and reference differ in size.
    """
    device = folder.parent.name.removeprefix("RETOUCH-TrainingSet-")
    image, reference = (read_header(folder / f"{name}.mhd") for name in ("oct", "reference"))
    if image.shape != reference.shape or len(image.shape) != 3:
        raise UserError(
            f"{reference.path} has another size than its image.",
            expected=f"(B-scans, depth, across) = {image.shape}",
            found=str(reference.shape),
            fix=_FIX,
        )
    return Volume(f"{device}_{folder.name}", device, image.path, reference.path, image.shape, image.spacing)


def prepared_path(volume: Volume, out: str | Path) -> Path:
    """File that a volume is prepared into."""
    return Path(out) / "data" / f"{volume.case_id}.h5"


def prepare_volume(volume: Volume, out: str | Path) -> bool:
    """Write the h5 file of one released volume unless it is there; it is complete or absent.

    It holds ``image``, as stored; ``label``, uint8; ``fluid_pixels``, int32 (B-scans, 3); and as attributes ``spacing``
    ((z, y, x) in mm) and ``device``. A B-scan is a chunk, so that it is read alone.

    Returns:
        Whether it was written.

    Raises:
        UserError: If the volume is damaged or its reference holds other values than 0..3.
    """
    path = prepared_path(volume, out)
    if path.is_file():
        return False
    image, label = read_volume(read_header(volume.image)), read_volume(read_header(volume.reference))
    if label.min() < 0 or label.max() > len(CLASSES):
        raise UserError(
            f"{volume.reference} holds values that are no class.",
            expected="0 background, 1 IRF, 2 SRF, 3 PED",
            found=", ".join(map(str, np.unique(label)[:10])),
            fix=_FIX,
        )
    packing = {"chunks": (1, *image.shape[1:]), "compression": "gzip", "compression_opts": 4, "shuffle": True}
    with atomic_write(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("image", data=image, **packing)
        file.create_dataset("label", data=label.astype(np.uint8), **packing)
        file.create_dataset("fluid_pixels", data=_count(label))
        file.attrs.update(spacing=volume.spacing, device=volume.device)
    return True


def _prepared(path: Path) -> Volume:
    with _opened(path) as file:
        shapes = [file[key].shape for key in ("image", "label", "fluid_pixels")]
        if len(shapes[0]) != 3 or shapes[1] != shapes[0] or shapes[2] != (shapes[0][0], len(CLASSES)):
            found = ", ".join(map(str, shapes))
            raise UserError(f"{path} is no volume with its reference.", expected="equal sizes", found=found, fix=_FIX)
        spacing = tuple(float(size) for size in file.attrs["spacing"])
        if len(spacing) != 3 or not all(0 < size < np.inf for size in spacing):
            raise UserError(f"{path}: the spacing is not a voxel size.", found=str(spacing), fix=_FIX)
        return Volume(path.stem, str(file.attrs["device"]), path, path, shapes[0], spacing)


def _count(label: np.ndarray) -> np.ndarray:
    return np.stack([(label == number).sum(axis=(1, 2)) for number in (1, 2, 3)], axis=1).astype(np.int32)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except (OSError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{path} cannot be read; the file is damaged or no prepared volume.", found=str(error), fix=_FIX
        ) from error
