"""Files that are something else than their names say: each message tells what it is and what to do."""

import bz2
import errno
import gzip
import io
import lzma
import tarfile
import zipfile
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from lightning_samseg.errors import UserError
from lightning_samseg.io.images import read_image

SMALL = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10))


def saved(form, **options):
    file = io.BytesIO()
    SMALL.save(file, form, **options)
    return file.getvalue()


def nifti(kind=nibabel.Nifti1Image):
    return kind(np.zeros((4, 5, 3), np.int16), np.eye(4)).to_bytes()


def by_itk(ending, folder):
    values = np.ones((4, 5), np.uint8) if ending == ".dcm" else np.ones((3, 4, 5), np.int16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), str(folder / f"made{ending}"))
    return (folder / f"made{ending}").read_bytes()


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", saved("PNG"))
    return file.getvalue()


def tarred(folder):
    (folder / "in").write_bytes(b"x")
    with tarfile.open(folder / "made.tar", "w") as archive:
        archive.add(folder / "in")
    return (folder / "made.tar").read_bytes()


def hdf5(folder):
    with h5py.File(folder / "made.h5", "w") as file:
        file["image"] = np.zeros(3)
    return (folder / "made.h5").read_bytes()


def analyze():
    header = nibabel.AnalyzeImage(np.zeros((4, 5, 3), np.int16), np.eye(4)).header
    return header.binaryblock


def npy():
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


HTML = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>"
SVG = b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'></svg>"
# name of the kind in the message, what to do, and the bytes
FOREIGN = {
    "empty": ("empty", "copy", b""),
    "zeros": ("nothing but zeros", "copy", bytes(4096)),
    "text": ("a text file", "copy", b"patient 1\n" * 9),
    "text of Windows": ("a text file", "copy", "L\u00e4sion 1\r\n".encode("utf-16")),
    "latin-1": ("a text file", "copy", "L\u00e4sion\n".encode("latin-1")),
    "html": ("a web page", "download", HTML),
    "svg": ("an SVG drawing", "save it as PNG", SVG),
    "lfs": ("a Git LFS pointer", "git lfs pull", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    "pdf": ("a PDF document", "pdfimages", lambda _: saved("PDF")),
    "eps": ("a PostScript drawing", "save it as PNG", lambda _: saved("EPS")),
    "heic": ("a HEIC picture", "JPEG", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
    "mp4": ("a video", "frames", b"\0\0\0\x18ftypisom\0\0\2\0isommp41"),
    "avi": ("a video", "frames", b"RIFF\x24\0\0\0AVI LIST"),
    "jpeg xl": ("a JPEG XL picture", "save it as PNG", b"\xff\x0a\x10\x20\x30"),
    "dicom": ("a DICOM file", "dcm2niix", lambda folder: by_itk(".dcm", folder)),
    "dicom without preamble": ("a DICOM file", "dcm2niix", b"\x08\0\x05\0CS\x0a\0ISO_IR 100"),
    "nrrd": ("an NRRD volume", ".nii.gz", lambda folder: by_itk(".nrrd", folder)),
    "metaimage": ("a MetaImage volume", "rename it to .mha", lambda folder: by_itk(".mha", folder)),
    "nifti": ("a NIfTI volume", "rename it to .nii", lambda _: nifti()),
    "nifti 2": ("a NIfTI volume", "rename it to .nii", lambda _: nifti(nibabel.Nifti2Image)),
    "analyze": ("half of an Analyze or NIfTI pair", "nibabel", lambda _: analyze()),
    "nifti.gz": ("a gzip-compressed file", ".nii.gz", lambda _: gzip.compress(nifti())),
    "zip": ("a ZIP archive", "unpack", lambda _: zipped()),
    "tar": ("an archive", "unpack", tarred),
    "bz2": ("an archive", "unpack", bz2.compress(b"x" * 99)),
    "xz": ("an archive", "unpack", lzma.compress(b"x" * 99)),
    "hdf5": ("a file of arrays", "PNG", hdf5),
    "npy": ("a file of arrays", "PNG", lambda _: npy()),
    "photoshop": ("a Photoshop file", "PNG", b"8BPS\0\1\0\0\0\0\0\0\0\3"),
    "zeiss": ("a file of a microscope", "Fiji", b"ZISRAWFILE\0\0\0\0\0\0"),
    "macos": ("attributes that macOS keeps", "remove", b"\0\5\x16\7\0\2\0\0Mac OS X"),
    "noise": ("no known kind of file", "copy", bytes(range(5, 256, 3)) * 5),
}


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("case", FOREIGN)
def test_what_it_is_and_what_to_do(tmp_path, case, ending):
    name, fix, content = FOREIGN[case]
    path = tmp_path / f"a{ending}"
    path.write_bytes(content if isinstance(content, bytes) else content(tmp_path))
    with pytest.raises(UserError) as caught:
        read_image(path)
    problem, *_, way_out = str(caught.value).splitlines()
    assert problem.startswith(str(path))
    assert name in problem
    assert fix in way_out
    assert "expected: one picture" in str(caught.value)


def test_the_content_counts_not_the_ending(tmp_path):
    """Pictures with the ending of another format are read, as every viewer does."""
    for form in ("PNG", "TIFF", "BMP", "GIF", "PPM", "JPEG2000"):
        (tmp_path / "a.jpg").write_bytes(saved(form))
        np.testing.assert_array_equal(read_image(tmp_path / "a.jpg").max(), 59)


def test_half_of_a_pair_by_its_name(tmp_path):
    (tmp_path / "a.hdr").write_bytes(analyze())
    (tmp_path / "a.img").write_bytes(bytes(range(1, 100)) * 3)
    with pytest.raises(UserError, match="half of an Analyze or NIfTI pair"):
        read_image(tmp_path / "a.img")


def test_no_file_at_all(tmp_path):
    (tmp_path / "a.png").mkdir()
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    for name, message in (("a", "is a folder"), ("b", r"There is no image file(.|\n)*gone\.png"), ("c", "There is no")):
        with pytest.raises(UserError, match=message):
            read_image(tmp_path / f"{name}.png")


def test_no_right_to_read(tmp_path, monkeypatch):
    SMALL.save(tmp_path / "a.png")

    def refuse(self, *arguments):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"cannot be opened(.|\n)*Permission denied(.|\n)*permissions"):
        read_image(tmp_path / "a.png")
