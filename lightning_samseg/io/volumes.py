"""Volumes as files, slice by slice: NIfTI (``.nii``, ``.nii.gz``) and MetaImage (``.mha``, ``.mhd``).

Arrays are ``(slice, row, column)``: the last axis of a NIfTI file and the last one that DimSize of a MetaImage names
are the slices, as ACDC and RETOUCH store theirs. A mask is written back in the format and geometry of its image.
"""

import gzip
import threading
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_samseg.errors import UserError
from lightning_samseg.io.files import atomic_write
from lightning_samseg.io.metaimage import read_header, write_metaimage
from lightning_samseg.io.metaimage import read_slice as read_meta_slice
from lightning_samseg.io.metaimage import read_volume as read_meta_volume
from lightning_samseg.io.text import escape, nfc

VOLUME_SUFFIXES = (".nii", ".nii.gz", ".mha", ".mhd")
"""Lower-case endings of the files that are taken for volumes when a folder is listed."""

_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}
_FIX = "copy the file again from its source, or remove it"
_decoding = threading.Lock()  # several threads want slices of one volume: it is decoded once


class Volume(NamedTuple):
    """What a header tells; no voxel has been read."""

    path: Path
    shape: tuple[int, int, int]
    """``(slices, rows, columns)``; an image of two axes is one slice."""
    spacing: tuple[float, float, float] | None
    """Voxel size in mm in the order of ``shape``; None where the file does not tell."""


def is_volume(path: str | Path) -> bool:
    """Whether a file is taken for a volume, by the ending of its name."""
    return str(path).lower().endswith(VOLUME_SUFFIXES)


def stem_of(path: str | Path) -> str:
    """Give a file's name without its ending; ``.nii.gz`` is one ending."""
    path = Path(path)
    return path.name[:-7] if path.name.lower().endswith(".nii.gz") else path.stem


def case_name(path: str | Path) -> str:
    """Name of an image as a case: its file's name without ending, see :func:`text.nfc` and :func:`text.escape`."""
    return escape(nfc(stem_of(path)))


def open_volume(path: str | Path) -> Volume:
    """Read the header of a volume.

    Raises:
        UserError: If the file is missing, damaged, or no volume of one number per voxel.
    """
    path = Path(path)
    if path.suffix.lower() in (".mha", ".mhd"):
        header = read_header(path)
        known = {"ElementSpacing", "ElementSize"} & header.fields.keys()
        return _volume(path, header.shape, header.spacing if known else None)
    image = _load_nifti(path)
    if image.get_data_dtype().fields is not None or image.get_data_dtype().kind not in "iuf":
        raise _damaged(path, "is no volume of one number per voxel", str(image.get_data_dtype()))
    shape = image.shape[:3] if all(size == 1 for size in image.shape[3:]) else image.shape
    zooms = [float(size) for size in image.header.get_zooms()[: len(shape)]]
    unit = _MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
    known_zooms = all(0 < size < np.inf for size in zooms)
    return _volume(path, shape[::-1], tuple(size * unit for size in zooms[::-1]) if known_zooms else None)


def read_slice(volume: Volume, index: int) -> np.ndarray:
    """Read one slice. Where the file is compressed, the last two volumes stay decoded.

    Args:
        volume: From :func:`open_volume`.
        index: Slice from 0.

    Returns:
        ``(rows, columns)``: integers as stored, floating point or scaled values as float32.

    Raises:
        UserError: If the file is damaged or the slice holds values that are not finite.
    """
    path = volume.path
    if path.suffix.lower() in (".mha", ".mhd"):
        header = read_header(path)
        whole = header.compressed or len(header.shape) == 2
        values = _decoded(path, _version(path))[index] if whole else read_meta_slice(header, index)
    elif path.suffix.lower() == ".gz":
        values = _decoded(path, _version(path))[index]
    else:
        values = _nifti_slice(path, index)
    if values.dtype.kind == "f" or values.dtype.itemsize > 4:
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise UserError(
                f"{path}: slice {index + 1} holds values that are not finite.",
                fix="replace NaN and infinity in the file, for instance by its smallest value",
            )
    return values


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
    if path.suffix.lower() in (".mha", ".mhd"):
        meta = read_header(volume.path)
        write_metaimage(path, mask.reshape(meta.shape), meta.spacing, meta.compressed, meta.fields)
        return
    image = _load_nifti(volume.path)
    header = image.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    content = type(image)(mask.T.reshape(image.shape), image.affine, header).to_bytes()
    with atomic_write(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix.lower() == ".gz" else content)


def _volume(path: Path, shape: tuple[int, ...], spacing: tuple[float, ...] | None) -> Volume:
    if len(shape) == 2:
        # Of a single image the distance of slices is unknown; 1 mm keeps its area in mm2.
        shape, spacing = (1, *shape), None if spacing is None else (1.0, *spacing)
    if len(shape) != 3 or 0 in shape:
        raise _damaged(path, "is not a volume of two or three axes", f"{len(shape)} axes, {shape}")
    size = None if spacing is None else (spacing[0], spacing[1], spacing[2])
    return Volume(path, (shape[0], shape[1], shape[2]), size)


def _version(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


def _decoded(path: Path, version: int) -> np.ndarray:
    with _decoding:
        return _decode(path, version)


@lru_cache(maxsize=2)  # an image and its mask
def _decode(path: Path, version: int) -> np.ndarray:
    if path.suffix.lower() in (".mha", ".mhd"):
        values = read_meta_volume(read_header(path))
        return values if values.ndim == 3 else values[None]
    return _nifti_values(path, slice(None))


def _nifti_slice(path: Path, index: int) -> np.ndarray:
    return _nifti_values(path, slice(index, index + 1))[0]


def _nifti_values(path: Path, slices: slice) -> np.ndarray:
    """Slices ``(n, rows, columns)`` of a NIfTI file with the header's scaling applied."""
    image = _load_nifti(path)
    try:
        if len(image.shape) == 2:
            values = np.asarray(image.dataobj)[..., None]
        else:
            place = (slice(None), slice(None), slices) + (0,) * (len(image.shape) - 3)
            values = np.asarray(image.dataobj[place])
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _damaged(path, "cannot be read; the file is damaged", str(error)) from error
    values = values.T
    # Scaled values are float64 in nibabel; their precision is not worth twice the memory.
    return np.ascontiguousarray(values, np.float32 if values.dtype == np.float64 else values.dtype.newbyteorder("="))


def _load_nifti(path: Path) -> Any:
    import nibabel  # late: takes half a second
    from nibabel.filebasedimages import ImageFileError

    if not path.is_file():
        raise UserError(f"There is no file {path}.", fix="check the path")
    try:
        return nibabel.load(path)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError) as error:
        raise _damaged(path, "cannot be read; the file is damaged or no NIfTI file", str(error)) from error


@lru_cache(maxsize=4096)
def _range(volume: Volume, version: int) -> tuple[float, float]:
    slices = (read_slice(volume, index) for index in range(volume.shape[0]))
    bounds = np.array([(values.min(), values.max()) for values in slices], np.float64)
    return float(bounds[:, 0].min()), float(bounds[:, 1].max())


def _damaged(path: Path, problem: str, found: str) -> UserError:
    return UserError(f"{path} {problem}.", found=found or None, fix=_FIX)
