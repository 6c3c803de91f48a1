"""What a file is by its first bytes, whatever its name says, and what to do with one that cannot be read here."""

import gzip
import math
import zlib
from pathlib import Path
from typing import NamedTuple

from lightning_samseg.errors import UserError

MOST_UNPACKED = 4 << 30
"""Bytes of the largest compressed volume that is read: it is unpacked in memory as a whole."""

_HEAD = 560  # bytes; the header of NIfTI-2 has 540
_COPY = "copy the file again from its source, or remove it"
_AS_PNG = "save it as PNG or TIFF first"
_AS_VOLUME = "save it as .nii.gz first, for instance with 3D Slicer or SimpleITK"


class Kind(NamedTuple):
    """One kind of file."""

    name: str
    """With its article: "a PNG picture"."""
    fix: str
    """What to do where another kind is wanted."""
    readable: bool = False
    """Whether it is read somewhere: then its name or its place is wrong."""


def _picture(name: str, ending: str) -> Kind:
    return Kind(f"a {name} picture", f"rename it to {ending} and put it where a picture is expected", True)


def _volume(name: str, ending: str) -> Kind:
    return Kind(f"a {name} volume", f"rename it to {ending} and put it where a volume is expected", True)


PNG, JPEG, TIFF = _picture("PNG", ".png"), _picture("JPEG", ".jpg"), _picture("TIFF", ".tif")
BMP, GIF, WEBP = _picture("BMP", ".bmp"), _picture("GIF", ".gif"), _picture("WebP", ".webp")
JPEG_2000, NETPBM = _picture("JPEG 2000", ".jp2"), _picture("Netpbm", ".pgm")
AVIF = Kind("an AVIF picture", _AS_PNG)
PICTURES = (PNG, JPEG, TIFF, BMP, GIF, WEBP, JPEG_2000, NETPBM, AVIF)
"""What is given to a decoder of pictures."""
NIFTI = _volume("NIfTI", ".nii (.nii.gz if compressed)")
META_IMAGE = _volume("MetaImage", ".mha (.mhd if its voxels are in another file)")
GZIP = Kind("a gzip-compressed file", "unpack it; only .nii.gz volumes are read compressed", True)
_DICOM = Kind("a DICOM file", "export it first: pictures as PNG, a series as one .nii.gz, for instance with dcm2niix")
_PAIR = Kind(
    "one half of an Analyze or NIfTI pair (.hdr and .img)",
    "save the pair as one file first: import nibabel; nibabel.save(nibabel.load('a.hdr'), 'a.nii.gz')",
)
_HEIC = Kind(
    "a HEIC picture, as phones take them",
    "save it as JPEG or PNG first (heif-convert; on an iPhone Settings > Camera > Formats > Most Compatible)",
)
_SVG = Kind("an SVG drawing", _AS_PNG)
_WEB = Kind("a web page, for instance of a login", "download the file itself from its source")
_VIDEO = Kind("a video", "export its frames as pictures first, for instance with ffmpeg")
_ARCHIVE = Kind("an archive", "unpack it")
TEXT = Kind("a text file", _COPY)
_EMPTY = Kind("empty (0 bytes)", _COPY)
_ZEROS = Kind("nothing but zeros, as an interrupted copy leaves them", _COPY)

_MAGIC: tuple[tuple[Kind, int, tuple[bytes, ...]], ...] = (
    # kind, place of the bytes, any of which; the first row that fits
    (PNG, 0, (b"\x89PNG\r\n\x1a\n",)),
    (JPEG, 0, (b"\xff\xd8\xff",)),
    (TIFF, 0, (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    (GIF, 0, (b"GIF8",)),
    (WEBP, 8, (b"WEBP",)),
    (NETPBM, 0, tuple(b"P%d%c" % (number, space) for number in range(1, 8) for space in b" \n\r\t")),
    (JPEG_2000, 0, (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")),
    (_DICOM, 128, (b"DICM",)),
    (_DICOM, 0, (b"\x02\0\0\0", b"\x08\0\0\0", b"\x08\0\x05\0", b"\x08\0\x08\0")),  # without a preamble
    (NIFTI, 344, (b"n+1\0",)),
    (NIFTI, 4, (b"n+2\0",)),
    (_PAIR, 344, (b"ni1\0",)),
    (_PAIR, 4, (b"ni2\0",)),
    (META_IMAGE, 0, (b"ObjectType", b"NDims", b"Comment =")),
    (GZIP, 0, (b"\x1f\x8b",)),
    (Kind("an NRRD volume", _AS_VOLUME), 0, (b"NRRD000",)),
    (Kind("a netCDF file, such as a MINC volume", _AS_VOLUME), 0, (b"CDF\x01", b"CDF\x02")),
    (Kind("a file of arrays (HDF5, MATLAB, NumPy)", _AS_PNG), 0, (b"\x89HDF", b"MATLAB 5.0 MAT", b"\x93NUMPY")),
    (Kind("a PDF document", "export its pictures first, for instance with pdfimages -png"), 0, (b"%PDF",)),
    (Kind("a PostScript drawing", _AS_PNG), 0, (b"%!PS", b"\xc5\xd0\xd3\xc6")),
    (Kind("a Photoshop file", _AS_PNG), 0, (b"8BPS",)),
    (Kind("a JPEG XL picture", _AS_PNG), 0, (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    (Kind("a JPEG XR picture", _AS_PNG), 0, (b"II\xbc\x01",)),
    (Kind("an OpenEXR picture", _AS_PNG), 0, (b"\x76\x2f\x31\x01",)),
    (Kind("a Radiance HDR picture", _AS_PNG), 0, (b"#?RADIANCE",)),
    (Kind("a FITS file", _AS_PNG), 0, (b"SIMPLE  =",)),
    (_VIDEO, 0, (b"\x1a\x45\xdf\xa3", b"\0\0\x01\xba", b"\0\0\x01\xb3", b"\x30\x26\xb2\x75")),
    (_VIDEO, 8, (b"AVI ",)),
    (
        Kind("a file of a microscope or an office program", "export it as TIFF first, for instance with Fiji"),
        0,
        (b"\xd0\xcf\x11\xe0", b"ZISRAWFILE", b"\x70\0\0\0", b"\xda\xce\xbe\x0a"),
    ),
    (Kind("a ZIP archive, an office document or an .npz file", "unpack or export what is in it"), 0, (b"PK\x03\x04",)),
    (_ARCHIVE, 0, (b"BZh", b"\xfd7zXZ\0", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")),
    (_ARCHIVE, 257, (b"ustar",)),
    (
        Kind("a Git LFS pointer in place of the file", "run `git lfs pull` where the data set was cloned"),
        0,
        (b"version https://git-lfs",),
    ),
    (Kind("attributes that macOS keeps beside a file", "remove it"), 0, (b"\0\x05\x16\x07",)),
)
_NIFTI_SIZES = (b"\x5c\x01\0\0", b"\0\0\x01\x5c", b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # 348 and 540 of either byte order
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def kind_of(path: Path) -> Kind | None:
    """Tell what a file is, by its first bytes; None if they say nothing.

    Raises:
        UserError: If the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            return _kind(file.read(_HEAD), path)
    except OSError as error:
        raise UserError(f"{path} cannot be opened.", found=error.strerror, fix="check its permissions") from error


def kind_inside(path: Path) -> Kind | None:
    """Tell what a gzip-compressed file holds; None if its first bytes say nothing or cannot be unpacked.

    Raises:
        OSError: If the file cannot be opened.
    """
    try:
        with gzip.open(path) as file:
            return _kind(file.read(_HEAD), path)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return None


def described(path: Path) -> str:
    """Give a file's name, and what it is where its first bytes tell, for messages."""
    try:
        kind = kind_of(path)
    except UserError:
        kind = None
    return f"{path.name} ({kind.name})" if kind else path.name


def check_is_file(path: Path, what: str) -> None:
    """Refuse a path that leads to no file.

    Args:
        path: The path.
        what: Such as ``image file``, for the message.

    Raises:
        UserError: If there is nothing or a folder.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder, no {what}.", fix="rename or remove it")
    if not path.is_file():
        found = f"a link to {path.readlink()}, where nothing is" if path.is_symlink() else None
        raise UserError(f"There is no {what} {path}.", found=found, fix="check the path")


def not_wanted(path: Path, kind: Kind, wanted: str) -> UserError:
    """Make the message for a file of another kind than is wanted.

    Args:
        path: The file.
        kind: What it is.
        wanted: What it should be, such as ``a picture: png, jpg or tif``.
    """
    problem = "has the wrong ending" if kind.readable else "cannot be read"
    return UserError(f"{path} {problem}: it is {kind.name}.", expected=wanted, fix=kind.fix)


def not_decoded(path: Path, kind: Kind | None, wanted: str, error: BaseException | str) -> UserError:
    """Make the message for a file that no decoder takes.

    Args:
        path: The file.
        kind: What its first bytes say: the wanted kind, or nothing.
        wanted: What it should be.
        error: What the decoder says.
    """
    size = f"{path.stat().st_size:,} bytes"
    if kind is None:
        with path.open("rb") as file:
            found = f"{size}, the first of them {file.read(8).hex(' ')}"
        return UserError(
            f"{path} cannot be read: it is no known kind of file.", expected=wanted, found=found, fix=_COPY
        )
    said = " ".join(str(error).split())[:200] or type(error).__name__
    problem = f"{path} cannot be read: it is {kind.name} that is damaged or cut off."
    return UserError(problem, expected=wanted, found=f"{size}; the decoder says: {said}", fix=_COPY)


def check_unpacked(path: Path, shape: tuple[int, ...], size: int) -> None:
    """Refuse a compressed volume that would fill the memory.

    Args:
        path: The file.
        shape: Of the volume.
        size: Bytes of a voxel.

    Raises:
        UserError: If it is larger than :data:`MOST_UNPACKED`.
    """
    if (there := math.prod(shape) * size) > MOST_UNPACKED:
        raise UserError(
            f"{path} is too large to be read compressed.",
            expected=f"at most {MOST_UNPACKED:,} bytes unpacked",
            found=f"{there:,} bytes, {' x '.join(map(str, shape[::-1]))} voxels",
            fix="save it without compression (.nii, .mha), which is read slice by slice, or cut or resample it",
        )


def several_volumes(path: Path, axes: int, shape: tuple[int, ...], volumes: int) -> UserError:
    """Make the message for a file of more than one volume."""
    return UserError(
        f"{path} holds {volumes} volumes where one is expected.",
        expected="two or three axes; further ones of size 1",
        found=f"{axes} axes, {shape}",
        fix="split the time points or channels into files of their own, for instance with fslsplit or "
        "nibabel.four_to_three, and keep those that are meant",
    )


def _kind(head: bytes, path: Path) -> Kind | None:
    if not any(head):
        return _ZEROS if head else _EMPTY
    for kind, place, magics in _MAGIC:
        if head.startswith(magics, place):
            return kind
    if head.startswith(_NIFTI_SIZES):
        return _PAIR if len(head) >= 348 else NIFTI
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return _HEIC if brand in _HEIC_BRANDS else AVIF if brand in (b"avif", b"avis") else _VIDEO
    suffix = path.suffix.lower()
    if suffix in (".dcm", ".dicom", ".ima"):
        return _DICOM
    if suffix == ".img" and path.with_suffix(".hdr").is_file():
        return _PAIR
    return _text(head) or (BMP if head.startswith(b"BM") else None)


def _text(head: bytes) -> Kind | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16
        head = head.replace(b"\0", b"")
    elif any(byte < 32 and byte not in b"\t\n\f\r\x1b" for byte in head):
        return None
    lower = head.lower()
    if b"<svg" in lower:
        return _SVG
    return _WEB if b"<html" in lower or b"<!doctype html" in lower else TEXT
