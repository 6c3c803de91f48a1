"""Volumes as files, slice by slice: NIfTI (``.nii``, ``.nii.gz``) and MetaImage (``.mha``, ``.mhd``).

Arrays are ``(slice, row, column)``: the last axis of a NIfTI file and the last one that DimSize of a MetaImage names
are the slices, as ACDC and RETOUCH store theirs. A mask is written back in the format and geometry of its image.
"""

import threading
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_samseg.io import nifti
from lightning_samseg.io.metaimage import affine_of, read_header, write_metaimage
from lightning_samseg.io.metaimage import read_slice as read_meta_slice
from lightning_samseg.io.metaimage import read_volume as read_meta_volume
from lightning_samseg.io.picture import check_pixels, compact
from lightning_samseg.io.text import escape, nfc

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd")
"""Lower-case endings of the files that are taken for volumes when a folder is listed."""

_decoding = threading.Lock()  # several threads want slices of one volume: it is decoded once


class Placement(NamedTuple):
    """One statement of where a volume lies."""

    name: str
    """``sform``, ``qform``, or ``header`` of a MetaImage."""
    affine: tuple[tuple[float, ...], ...]
    """Four rows of four: from a voxel (column, row, slice) to mm in RAS space (right, anterior, superior)."""


class Volume(NamedTuple):
    """What a header tells; no voxel has been read."""

    path: Path
    shape: tuple[int, int, int]
    """``(slices, rows, columns)``; an image of two axes is one slice."""
    spacing: tuple[float, float, float] | None
    """Voxel size in mm in the order of ``shape``; None where the file does not tell."""
    placements: tuple[Placement, ...] = ()
    """Where its voxels lie: a NIfTI file may state it twice; none where the file does not tell."""
    axes: tuple[int, int, int] = (0, 1, 2)
    """Which axis of the file each axis of ``shape`` is; the file's own unless the volume was turned onto another."""
    reversed_axes: tuple[bool, bool, bool] = (False, False, False)
    """Along which axes of ``shape`` the file runs the other way."""

    @property
    def turned(self) -> bool:
        """Whether arrays are not as the file stores them."""
        return self.axes != (0, 1, 2) or any(self.reversed_axes)


def is_volume(path: str | Path) -> bool:
    """Whether a file is taken for a volume, by the ending of its name."""
    return str(path).lower().endswith(VOLUME_SUFFIXES)


def stem_of(path: str | Path) -> str:
    """Give a file's name without its ending; ``.nii.gz`` is one ending."""
    path = Path(path)
    return path.name[:-7] if path.name.lower().endswith(".nii.gz") else path.stem


def ending_of(path: str | Path) -> str:
    """Give the ending that :func:`stem_of` leaves out, in small letters: ``.nii.gz``."""
    return Path(path).name[len(stem_of(path)) :].lower()


def case_name(path: str | Path) -> str:
    """Name of an image as a case: its file's name without ending, see :func:`text.nfc` and :func:`text.escape`."""
    return escape(nfc(stem_of(path)))


def open_volume(path: str | Path) -> Volume:
    """Read the header of a volume.

    Raises:
        UserError: If the file is missing, damaged, or no volume of one number per voxel.
    """
    path = Path(path)
    if _is_meta(path):
        header = read_header(path)
        known = {"ElementSpacing", "ElementSize"} & header.fields.keys()
        shape, spacing = header.shape, header.spacing if known else None
        affine = affine_of(header)
        affines = {} if affine is None else {"header": affine}
    else:
        shape, spacing, affines = nifti.read_header(path)
    if len(shape) == 2:
        # Of a single image the distance of slices is unknown; 1 mm keeps its area in mm2.
        shape, spacing = (1, *shape), None if spacing is None else (1.0, *spacing)
    size = None if spacing is None else (spacing[0], spacing[1], spacing[2])
    placements = (Placement(name, tuple(tuple(map(float, row)) for row in rows)) for name, rows in affines.items())
    return Volume(path, (shape[0], shape[1], shape[2]), size, tuple(placements))


def read_slice(volume: Volume, index: int) -> np.ndarray:
    """Read one slice. Where the file is compressed, the last two volumes stay decoded.

    Args:
        volume: From :func:`open_volume`.
        index: Slice from 0.

    Returns:
        ``(rows, columns)``: integers as stored, floating point or scaled values as float32, or as float64 where that
        would lose the slice.

    Raises:
        UserError: If the file is damaged or the slice holds values that are not finite.
    """
    stored_index = volume.shape[0] - 1 - index if volume.reversed_axes[0] else index
    if volume.axes[0] == 0:
        values = _stored_slice(volume, stored_index)
    else:
        values = _decoded(volume.path, _version(volume.path)).take(stored_index, volume.axes[0])
    if volume.axes[1] > volume.axes[2]:
        values = values.T
    values = np.ascontiguousarray(
        values[tuple(slice(None, None, -1 if back else 1) for back in volume.reversed_axes[1:])]
    )
    check_pixels(values, volume.path, f"slice {index + 1}")
    return compact(values)


def read_volume(volume: Volume) -> np.ndarray:
    """Read all slices: an array of ``volume.shape``, values as :func:`read_slice` gives them.

    Raises:
        UserError: As :func:`read_slice`.
    """
    return np.stack([read_slice(volume, index) for index in range(volume.shape[0])])


def scaled_slice(volume: Volume, index: int) -> np.ndarray:
    """Read one slice, scaled by the minimum and maximum of the whole volume to 0..1, as ``data prepare acdc`` does.

    Args:
        volume: From :func:`open_volume`.
        index: Slice from 0.

    Returns:
        float32 ``(rows, columns)``; 0 where the volume is constant.

    Raises:
        UserError: As :func:`read_slice`, of any slice.
    """
    low, high = _range(volume, _version(volume.path))
    values = read_slice(volume, index).astype(np.float64)
    return np.asarray((values - low) / (high - low) if high > low else values * 0, np.float32)


def write_mask_like(volume: Volume, path: str | Path, mask: np.ndarray) -> None:
    """Write the mask of a volume: affine or origin, direction and spacing are those of the image's header.

    Args:
        volume: The image.
        path: File to write, with the ending of the image's; complete or absent.
        mask: uint8, of the image's shape ``(slices, rows, columns)``.
    """
    path = Path(path)
    if _is_meta(path):
        meta = read_header(volume.path)
        shape = [int(size) for size in meta.fields["DimSize"].split()[::-1]]
        write_metaimage(path, mask.reshape(shape), meta.spacing, meta.compressed, meta.fields)
    else:
        nifti.write_mask_like(volume.path, path, mask)


def _is_meta(path: Path) -> bool:
    return path.suffix.lower() in (".mha", ".mhd")


def _version(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


def _decoded(path: Path, version: int) -> np.ndarray:
    with _decoding:
        return _decode(path, version)


@lru_cache(maxsize=2)  # an image and its mask
def _decode(path: Path, version: int) -> np.ndarray:
    if _is_meta(path):
        values = read_meta_volume(read_header(path))
        return values if values.ndim == 3 else values[None]
    return nifti.read_values(path, slice(None))


def _stored_slice(volume: Volume, index: int) -> np.ndarray:
    path = volume.path
    if _is_meta(path):
        header = read_header(path)
        whole = header.compressed or len(header.shape) == 2
        return _decoded(path, _version(path))[index] if whole else read_meta_slice(header, index)
    if path.suffix.lower() == ".gz":
        return np.asarray(_decoded(path, _version(path))[index])
    return np.asarray(nifti.read_values(path, slice(index, index + 1))[0])


@lru_cache(maxsize=4096)
def _range(volume: Volume, version: int) -> tuple[float, float]:
    slices = (read_slice(volume, index) for index in range(volume.shape[0]))
    bounds = np.array([(values.min(), values.max()) for values in slices], np.float64)
    return float(bounds[:, 0].min()), float(bounds[:, 1].max())
