"""MetaImage volumes (``.mhd`` with a raw file beside it, or ``.mha``), as the RETOUCH data and ITK's tools write them.

Format: https://itk.org/Wiki/MetaIO/Documentation. One scalar per voxel, 2 or 3 axes, raw or zlib-compressed.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lightning_samseg.errors import UserError
from lightning_samseg.io.file_kinds import (
    META_IMAGE,
    TEXT,
    check_is_file,
    check_unpacked,
    kind_of,
    not_wanted,
    several_volumes,
)
from lightning_samseg.io.files import atomic_write

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",  # 4 bytes in MetaIO and ITK on every platform
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_LONGEST_HEADER = 1 << 16
_GEOMETRY = (
    "ElementSpacing",
    "ElementSize",
    "Offset",
    "Position",
    "Origin",
    "TransformMatrix",
    "Orientation",
    "Rotation",
    "CenterOfRotation",
    "AnatomicalOrientation",
    "DistanceUnits",
)
_MILLIMETRES = {"um": 0.001, "cm": 10.0}
_FIX = "copy the header and its data file again from the source, or write the volume again with ITK or SimpleITK"


class MetaImage(NamedTuple):
    """What a header tells; no voxel has been read."""

    path: Path
    """The header's file."""
    shape: tuple[int, ...]
    """Axes slowest first: ``(z, y, x)`` or ``(y, x)``; further axes of size 1 are left out."""
    spacing: tuple[float, ...]
    """Voxel size in mm in the order of ``shape``."""
    dtype: np.dtype[np.generic]
    """Type of the voxels, with the file's byte order."""
    data: Path
    """File that holds the voxels; the header's own for ``.mha``."""
    offset: int
    """Where they begin in it, in bytes."""
    compressed: bool
    fields: dict[str, str]
    """All fields as they are in the header, such as Offset and TransformMatrix."""


def read_header(path: str | Path) -> MetaImage:
    """Read a MetaImage header.

    Args:
        path: An ``.mhd`` or ``.mha`` file.

    Raises:
        UserError: If the file is missing or no MetaImage, describes what is not supported, or its data file is missing
            or too short.
    """
    path = Path(path)
    check_is_file(path, "volume")
    kind = kind_of(path)
    if kind not in (None, META_IMAGE, TEXT):
        raise not_wanted(path, kind, "a MetaImage volume (.mha, .mhd)")
    with path.open("rb") as file:
        text = file.read(_LONGEST_HEADER)
    fields: dict[str, str] = {}
    position = 0
    while "ElementDataFile" not in fields:
        end = text.find(b"\n", position)
        line = text[position : end if end >= 0 else len(text)].decode("latin-1")
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals:
            expected = "lines such as 'DimSize = 512 1024 128', the last one ElementDataFile"
            raise _refusal(path, "is no MetaImage header", expected, line[:60] or "its end")
        fields[key] = value
        position = end + 1 if end >= 0 else len(text)
    return _checked(path, fields, position)


def affine_of(image: MetaImage) -> np.ndarray | None:
    """Tell where voxels lie: ``(4, 4)`` from ``(x, y, z)`` to mm in RAS space; None if the header does not.

    MetaImage's own space is LPS; TransformMatrix names the direction of one axis after the other. An image of two axes
    lies in the plane z = 0.
    """
    count, axes = len(image.shape), len(image.fields["DimSize"].split())
    rows = _numbers(image.fields, ("TransformMatrix", "Orientation", "Rotation"))
    place = _numbers(image.fields, ("Offset", "Position", "Origin"))
    if rows is None and place is None:
        return None
    affine = np.eye(4)
    directions = np.eye(axes) if rows is None or rows.size != axes**2 else rows.reshape(axes, axes).T
    affine[:count, :count] = directions[:count, :count] * image.spacing[::-1]
    if place is not None and place.size == axes:
        affine[:count, 3] = place[:count] * _MILLIMETRES.get(image.fields.get("DistanceUnits", ""), 1.0)
    usable = np.isfinite(affine).all() and abs(np.linalg.det(affine)) > 1e-12
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine if usable else None


def read_volume(image: MetaImage) -> np.ndarray:
    """Read all voxels: an array of ``image.shape`` in native byte order.

    Raises:
        UserError: If the data file is damaged.
    """
    count = int(np.prod(image.shape))
    if image.compressed:
        values = np.frombuffer(_unpacked(image, count * image.dtype.itemsize), image.dtype)
    else:
        values = np.fromfile(image.data, image.dtype, count, offset=image.offset)
        if len(values) != count:
            expected = f"{count} voxels, as {image.path.name} says"
            raise _refusal(image.data, "is too short", expected, f"{len(values)} voxels")
    return values.reshape(image.shape).astype(image.dtype.newbyteorder("="))


def read_slice(image: MetaImage, index: int) -> np.ndarray:
    """Read one slice, and nothing else where the voxels are not compressed.

    Args:
        image: Header of a volume.
        index: Position along the first axis.

    Returns:
        ``(y, x)`` in native byte order.

    Raises:
        UserError: If the data file is damaged.
    """
    if image.compressed:
        return np.asarray(read_volume(image)[index])
    count = image.shape[1] * image.shape[2]
    start = image.offset + index * count * image.dtype.itemsize
    values = np.fromfile(image.data, image.dtype, count, offset=start)
    if len(values) != count:
        raise _refusal(image.data, "is too short", f"slice {index} of {image.shape[0]}", f"{len(values)} of its voxels")
    return values.reshape(image.shape[1:]).astype(image.dtype.newbyteorder("="))


def write_metaimage(
    path: str | Path,
    volume: np.ndarray,
    spacing: tuple[float, ...],
    compress: bool = False,
    like: Mapping[str, str] | None = None,
) -> None:
    """Write a volume; complete or absent.

    Args:
        path: ``NAME.mhd``, whose voxels go to ``NAME.raw`` (``.zraw`` if compressed), or ``NAME.mha``, one file.
        volume: ``(z, y, x)`` or ``(y, x)``, an integer or floating-point type.
        spacing: Voxel size in mm in the order of the axes.
        compress: Compress the voxels by zlib.
        like: Fields of another header (``MetaImage.fields``); those that tell where the voxels lie are copied as they
            are, the spacing among them.
    """
    path = Path(path)
    little = volume.astype(volume.dtype.newbyteorder("<"), order="C")
    content = zlib.compress(little.tobytes()) if compress else little.tobytes()
    local = path.suffix.lower() == ".mha"
    data = path.with_suffix(".zraw" if compress else ".raw")
    element = next(name for name, code in _TYPES.items() if np.dtype(code) == volume.dtype.newbyteorder("="))
    fields = {
        "ObjectType": "Image",
        "NDims": volume.ndim,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": False,
        "CompressedData": compress,
        **({"CompressedDataSize": len(content)} if compress else {}),
        **({} if like else {"ElementSpacing": " ".join(f"{size:.9g}" for size in spacing[::-1])}),
        **{key: like[key] for key in _GEOMETRY if like and key in like},
        "DimSize": " ".join(map(str, volume.shape[::-1])),
        "ElementType": element,
        "ElementDataFile": "LOCAL" if local else data.name,
    }
    header = "".join(f"{key} = {value}\n" for key, value in fields.items()).encode()
    if not local:
        with atomic_write(data) as temporary:
            temporary.write_bytes(content)
    with atomic_write(path) as temporary:
        temporary.write_bytes(header + content if local else header)


def _unpacked(image: MetaImage, size: int) -> bytes:
    """Decompress ``size`` bytes of voxels, and no more whatever the file holds."""
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(image.data.read_bytes()[image.offset :], size)
        more = stream.decompress(stream.unconsumed_tail, 1)  # nothing, and the end with its checksum
    except zlib.error as error:
        raise _refusal(image.data, "is damaged", "zlib-compressed voxels", str(error)) from error
    if len(content) != size or more or not stream.eof:
        found = f"{'more than ' if more else ''}{len(content)} bytes"
        raise _refusal(image.data, "is damaged or cut off", f"{size} bytes, as {image.path.name} says", found)
    return content


def _checked(path: Path, fields: dict[str, str], end: int) -> MetaImage:
    try:
        size = [int(value) for value in fields["DimSize"].split()]
        named = fields.get("ElementSpacing", fields.get("ElementSize", "1 " * len(size)))
        unit = _MILLIMETRES.get(fields.get("DistanceUnits", ""), 1.0)
        spacing = [float(value) * unit for value in named.split()]
        skipped = int(fields.get("HeaderSize", 0))
    except (KeyError, ValueError) as error:
        raise _refusal(path, "does not tell the size", "DimSize and ElementSpacing, as numbers", str(error)) from error
    while len(size) > 3 and len(spacing) == len(size) and size[-1] == 1:
        size, spacing = size[:-1], spacing[:-1]
    if len(size) > 3 and len(spacing) == len(size) and min(size) > 0:
        raise several_volumes(path, len(size), tuple(size[::-1]), int(np.prod(size[3:])))
    if not (
        len(size) in (2, 3) and len(spacing) == len(size) and min(size) > 0 and all(0 < s < np.inf for s in spacing)
    ):
        raise _refusal(path, "does not tell the size", "2 or 3 positive sizes and spacings", f"{size}, {spacing}")
    code = _TYPES.get(fields.get("ElementType", ""))
    channels = fields.get("ElementNumberOfChannels", "1")
    if channels != "1":
        raise UserError(
            f"{path} holds {channels} numbers per voxel, as of colours.",
            expected="one",
            fix="make it grey or save one channel, for instance by SimpleITK.VectorIndexSelectionCast(image, 0)",
        )
    if code is None:
        expected = f"one of {', '.join(_TYPES)}"
        raise _refusal(path, "has an unsupported type of voxels", expected, str(fields.get("ElementType")))
    compressed = _true(fields, "CompressedData", False)
    if not _true(fields, "BinaryData", True) or skipped < -1 or (skipped < 0 and compressed):
        raise _refusal(
            path,
            "stores its voxels in an unsupported way",
            "BinaryData = True, HeaderSize of -1 or more (0 or more if compressed)",
            f"BinaryData = {fields.get('BinaryData')}, HeaderSize = {skipped}",
        )
    big = _true(fields, "BinaryDataByteOrderMSB", False) or _true(fields, "ElementByteOrderMSB", False)
    dtype = np.dtype(code).newbyteorder(">" if big else "<")
    name = fields["ElementDataFile"]
    if name == "LIST" or "%" in name:
        raise _refusal(path, "refers to several data files", "one data file, or LOCAL", name)
    local = name.upper() == "LOCAL"
    data = path if local else path.parent / name
    if not data.is_file():
        raise _refusal(path, "refers to a missing data file", f"{data}", "no such file")
    needed = int(np.prod(size)) * dtype.itemsize
    offset = end if local else skipped
    if compressed:
        check_unpacked(path, tuple(size[::-1]), dtype.itemsize)
    if skipped == -1:  # the voxels are the end of the file
        offset = max(0, data.stat().st_size - needed)
    there = data.stat().st_size - offset
    if not compressed and there < needed:
        raise _refusal(data, "is too short", f"{needed} bytes, as {path.name} says", f"{there} bytes")
    if not compressed and not local and there > needed:
        said = f"{needed} bytes, as DimSize, ElementType and HeaderSize of {path.name} say"
        raise _refusal(data, "is too long", said, f"{there} bytes")
    return MetaImage(path, tuple(size[::-1]), tuple(spacing[::-1]), dtype, data, offset, compressed, fields)


def _numbers(fields: Mapping[str, str], names: tuple[str, ...]) -> np.ndarray | None:
    for name in names:
        if name in fields:
            try:
                return np.array([float(value) for value in fields[name].split()])
            except ValueError:
                return None
    return None


def _true(fields: dict[str, str], key: str, default: bool) -> bool:
    return fields.get(key, str(default)).lower() in ("true", "1")


def _refusal(path: Path, problem: str, expected: str, found: str) -> UserError:
    return UserError(f"{path} {problem}.", expected=expected, found=found or None, fix=_FIX)
