"""NIfTI files (``.nii``, ``.nii.gz``) by nibabel: what a header tells, voxels of chosen slices, a mask beside an image.

Format: https://nifti.nimh.nih.gov/nifti-1. Its axes are ``(x, y, z)``, fastest first; arrays here are ``(z, y, x)``.
"""

import gzip
import io
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_samseg.errors import UserError
from lightning_samseg.io.file_kinds import (
    GZIP,
    NIFTI,
    check_is_file,
    check_unpacked,
    kind_inside,
    kind_of,
    not_decoded,
    not_wanted,
    several_volumes,
)
from lightning_samseg.io.files import atomic_write
from lightning_samseg.io.picture import compact

_WANTED = "a volume of one number a voxel: NIfTI (.nii, .nii.gz) or MetaImage (.mha, .mhd)"
_MILLIMETRES = {1: 1000.0, 3: 0.001}  # of metres and micrometres, the lower three bits of xyzt_units
_SAME_SIZE = 1e-3  # by which the sizes of a voxel that a header states twice may differ, relative
logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # what it mends in headers is looked at here


class NiftiHeader(NamedTuple):
    """What a header tells; no voxel has been read."""

    shape: tuple[int, ...]
    """Axes slowest first, ``(z, y, x)`` or ``(y, x)``."""
    spacing: tuple[float, ...] | None
    """Voxel size in mm in the same order; None where the file does not tell."""
    affines: dict[str, np.ndarray]
    """Where voxels ``(x, y, z)`` lie in mm of RAS space, ``(4, 4)``, by ``sform`` and ``qform``, as far as stated."""


def read_header(path: Path) -> NiftiHeader:
    """Read a header.

    Raises:
        UserError: If the file is missing, of another kind or damaged, or holds no volume of one real number per voxel,
            or states two voxel sizes.
    """
    _check_kind(path)
    try:
        return _read_header(path, _load(path))
    except UserError:
        raise
    except Exception as error:  # nibabel's errors on damaged headers have no common kind
        raise not_decoded(path, NIFTI, _WANTED, error) from error


def _read_header(path: Path, image: Any) -> NiftiHeader:
    dtype = image.get_data_dtype()
    if dtype.fields is not None or dtype.kind not in "iuf":
        found = "complex numbers" if dtype.kind == "c" else f"{len(dtype.fields or ())} numbers a voxel, as of colours"
        fix = "save their magnitude" if dtype.kind == "c" else "make them grey, or save slices as PNG"
        raise UserError(f"{path} cannot be read.", expected=_WANTED, found=found, fix=fix)
    shape = tuple(int(size) for size in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 3:
        raise several_volumes(path, len(shape), shape[::-1], int(np.prod(shape[3:])))
    if len(shape) < 2 or min(shape) < 1:
        found = f"{len(shape)} axes of sizes {shape}"
        raise UserError(f"{path} is no volume of two or three axes.", expected=_WANTED, found=found, fix="remove it")
    if path.suffix.lower() == ".gz":
        check_unpacked(path, shape[::-1], dtype.itemsize)
    unit = _MILLIMETRES.get(int(image.header["xyzt_units"]) & 7, 1.0)
    affines = {
        name: np.diag([unit, unit, unit, 1.0]) @ affine
        for name, affine in (("sform", image.header.get_sform(coded=True)[0]), ("qform", _qform(image.header)))
        if affine is not None and np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 1e-12
    }
    # An sform may lead to the space of an atlas, whose millimetres are others, beside a qform that keeps the scanner's.
    binding = affines.values() if int(image.header["sform_code"]) == 1 or "qform" not in affines else ()
    return NiftiHeader(shape[::-1], _spacing(path, _raw_header(image), shape, [*binding], unit), affines)


def read_values(path: Path, slices: slice) -> np.ndarray:
    """Read slices ``(n, y, x)`` with the header's scaling applied, in a type of :func:`compact`.

    Raises:
        UserError: If the file is damaged.
    """
    image = _load(path)
    try:
        if len(image.shape) == 2:
            values = np.asarray(image.dataobj)[..., None][..., slices]
        else:
            place = (slice(None), slice(None), slices) + (0,) * (len(image.shape) - 3)
            values = np.asarray(image.dataobj[place])
    except Exception as error:  # decoders raise all sorts of things for damaged files
        raise not_decoded(path, NIFTI, _WANTED, error) from error
    # Scaled values are float64 in nibabel; their precision is rarely worth twice the memory.
    return np.ascontiguousarray(compact(values).T)


def write_mask_like(image_path: Path, path: Path, mask: np.ndarray) -> None:
    """Write a mask whose header is its image's but for the type of the voxels; complete or absent.

    Args:
        image_path: The image.
        path: File to write, ``.nii`` or ``.nii.gz``.
        mask: uint8, as many voxels as the image, slowest axis first.
    """
    image = _load(image_path)
    header = image.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    # No affine is given: sform, qform and their codes stay what they are.
    content = type(image)(mask.T.reshape(image.shape), None, header).to_bytes()
    # Nor is a voxel size made up where the image has none.
    written = type(header).from_fileobj(io.BytesIO(content), check=False)
    written["pixdim"] = _raw_header(image)["pixdim"]
    content = written.binaryblock + content[len(written.binaryblock) :]
    with atomic_write(path) as temporary:
        temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix.lower() == ".gz" else content)


def _check_kind(path: Path) -> None:
    check_is_file(path, "volume")
    kind, packed = kind_of(path), path.suffix.lower() == ".gz"
    if kind is GZIP and not packed:
        raise UserError(f"{path} has the wrong ending: it is gzip-compressed.", fix=f"rename it to {path.name}.gz")
    if kind is NIFTI and packed:
        raise UserError(f"{path} has the wrong ending: it is not compressed.", fix=f"rename it to {path.stem}")
    if kind is GZIP:
        kind = kind_inside(path)
        if kind is None:
            return  # the decoder says what is wrong
    if kind is None:
        raise not_decoded(path, None, _WANTED, "")
    if kind is not NIFTI:
        raise not_wanted(path, kind, _WANTED)


def _load(path: Path) -> Any:
    import nibabel  # late: takes half a second

    check_is_file(path, "volume")
    try:
        return nibabel.load(path)
    except Exception as error:  # nibabel's and zlib's errors have no common kind
        raise not_decoded(path, NIFTI, _WANTED, error) from error


def _raw_header(image: Any) -> Any:
    """The header as it is in the file: nibabel puts 1 in place of voxel sizes of 0 and drops the sign of others."""
    with image.file_map["image"].get_prepare_fileobj("rb") as file:
        return type(image.header).from_fileobj(file, check=False)


def _qform(header: Any) -> np.ndarray | None:
    from nibabel.spatialimages import HeaderDataError

    try:
        affine: np.ndarray | None = header.get_qform(coded=True)[0]
    except (HeaderDataError, ValueError):  # a quaternion longer than 1
        return None
    return affine


def _spacing(
    path: Path, raw: Any, shape: tuple[int, ...], affines: list[np.ndarray], unit: float
) -> tuple[float, ...] | None:
    """Voxel size in mm, slowest axis first, by ``pixdim``, or by the affines where that is 0."""
    count = len(shape)
    stated = [np.abs(np.asarray(raw["pixdim"][1 : count + 1], np.float64)) * unit]
    stated += [np.linalg.norm(affine[:3, :count], axis=0) for affine in affines]
    # Of a single slice the thickness need not be known: it counts for nothing.
    counted = np.array(shape) > 1 if count == 3 and shape[2] == 1 else np.ones(count, bool)
    stated = [size for size in stated if (np.isfinite(size) & (size > 0))[counted].all()]
    if not stated:
        return None
    for size in stated[1:]:
        if not np.allclose(size[counted], stated[0][counted], rtol=_SAME_SIZE, atol=0):
            sizes = " and ".join(" x ".join(f"{length:.6g}" for length in each) for each in (stated[0], size))
            raise UserError(
                f"{path} states two voxel sizes.",
                expected="the same in pixdim, qform and sform",
                found=f"{sizes} mm",
                fix="find out which is right and save the file with it, for instance by nibabel: "
                "image.header.set_zooms((dx, dy, dz)), or image.set_sform(affine) and image.set_qform(affine)",
            )
    size = np.where(np.isfinite(stated[0]) & (stated[0] > 0), stated[0], 1.0)
    return tuple(float(length) for length in size[::-1])
