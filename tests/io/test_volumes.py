"""Volumes against nibabel and SimpleITK."""

import gzip

import nibabel
import numpy as np
import pytest
import SimpleITK

from lightning_samseg.errors import UserError
from lightning_samseg.io import volumes
from lightning_samseg.io.volumes import (
    ending_of,
    is_volume,
    open_volume,
    read_slice,
    read_volume,
    scaled_slice,
    stem_of,
    write_mask_like,
)
from tests.fakes import truncate

ARRAY = np.random.default_rng(0).integers(-900, 1200, (5, 7, 6)).astype(np.int16)
ARRAY[0, 0, 0], ARRAY[-1, -1, -1] = -1000, 1300
SPACING = (3.0, 0.75, 0.5)
MASK = np.random.default_rng(1).integers(0, 4, ARRAY.shape).astype(np.uint8)


def tilted() -> np.ndarray:
    """An affine with rotation, unequal voxels and an origin."""
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, -1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * SPACING[::-1], (-80, 12.5, 33)
    return affine


def nifti(path, array=ARRAY, kind=nibabel.Nifti1Image, **header):
    image = kind(array.T, tilted())
    image.set_qform(tilted(), 1)
    image.set_sform(tilted(), 2)
    image.header.set_xyzt_units(header.get("unit", "mm"))
    nibabel.save(image, path)
    return path


def meta(path, array=ARRAY, compress=False):
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    image.SetOrigin((-80, 12.5, 33))
    image.SetDirection((0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, -1))
    SimpleITK.WriteImage(image, str(path), compress)
    return path


WRITERS = {
    "a.nii": nifti,
    "a.nii.gz": nifti,
    "a.mha": meta,
    "a.mhd": meta,
    "z.mha": lambda path: meta(path, compress=True),
    "z.mhd": lambda path: meta(path, compress=True),
    "2.nii.gz": lambda path: nifti(path, kind=nibabel.Nifti2Image),
}


@pytest.mark.parametrize("name", WRITERS)
def test_slices_are_those_of_the_file(tmp_path, name):
    volume = open_volume(WRITERS[name](tmp_path / name))
    assert volume.shape == ARRAY.shape
    np.testing.assert_allclose(volume.spacing, SPACING, rtol=1e-6)
    for index in (4, 0, 2):
        read = read_slice(volume, index)
        assert read.dtype == np.int16
        np.testing.assert_array_equal(read, ARRAY[index])
    np.testing.assert_array_equal(read_volume(volume), ARRAY)
    expected = ((ARRAY.astype(float) + 1000) / 2300).astype(np.float32)[3]
    np.testing.assert_array_equal(scaled_slice(volume, 3), expected)


@pytest.mark.parametrize("name", WRITERS)
def test_a_mask_lies_where_its_image_lies(tmp_path, name):
    path = WRITERS[name](tmp_path / name)
    out = tmp_path / "masks" / name
    write_mask_like(open_volume(path), out, MASK)
    if name != "2.nii.gz":  # which ITK does not read
        before, after = (SimpleITK.ReadImage(str(each)) for each in (path, out))
        assert after.GetPixelID() == SimpleITK.sitkUInt8
        assert after.GetSize() == before.GetSize()
        for get in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(after, get)() == getattr(before, get)(), get
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(after), MASK)
    np.testing.assert_array_equal(read_volume(open_volume(out)), MASK)
    if "nii" in name:
        headers = [nibabel.load(each).header for each in (path, out)]
        for key in ("pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "xyzt_units"):
            np.testing.assert_array_equal(headers[0][key], headers[1][key])
        np.testing.assert_array_equal(nibabel.load(out).affine, nibabel.load(path).affine)
        assert type(headers[0]) is type(headers[1])
    assert not list((tmp_path / "masks").glob(".*"))


def test_scaled_values_and_units(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((6, 7, 5)), np.diag([500.0, 750, 3000, 1]))
    image.header.set_data_dtype(np.int16)
    image.header.set_xyzt_units("micron")
    stored = np.random.default_rng(0).normal(0, 3, (6, 7, 5))
    nibabel.save(nibabel.Nifti1Image(stored, image.affine, image.header), tmp_path / "a.nii.gz")
    volume = open_volume(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(volume.spacing, SPACING)
    read = read_slice(volume, 1)
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, stored[..., 1].T, atol=1e-3)
    write_mask_like(volume, tmp_path / "b.nii.gz", MASK)
    written = nibabel.load(tmp_path / "b.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), MASK.T)  # no scaling is left in the header
    assert written.get_data_dtype() == np.uint8


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 1), (6, 7, 5, 1)])
def test_nifti_of_other_axes(tmp_path, shape):
    values = np.arange(np.prod(shape)).reshape(shape).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(values, np.diag([0.5, 0.75, 3, 1])), tmp_path / "a.nii")
    volume = open_volume(tmp_path / "a.nii")
    depth = shape[2] if len(shape) > 2 else 1
    assert volume.shape == (depth, 7, 6)
    np.testing.assert_allclose(volume.spacing[1:], (0.75, 0.5))
    np.testing.assert_array_equal(read_volume(volume), values.reshape(6, 7, depth).T)
    write_mask_like(volume, tmp_path / "b.nii", read_volume(volume))
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "b.nii").dataobj), values)


def test_meta_image_of_two_axes(tmp_path):
    image = SimpleITK.GetImageFromArray(ARRAY[2])
    image.SetSpacing((0.5, 0.75))
    SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
    volume = open_volume(tmp_path / "a.mha")
    assert (volume.shape, volume.spacing) == ((1, 7, 6), (1.0, 0.75, 0.5))
    np.testing.assert_array_equal(read_slice(volume, 0), ARRAY[2])
    write_mask_like(volume, tmp_path / "b.mha", MASK[:1])
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "b.mha"))), MASK[0])


def test_compressed_volumes_are_decoded_once(tmp_path, monkeypatch):
    paths = [nifti(tmp_path / f"{n}.nii.gz") for n in range(3)]
    volumes._decode.cache_clear()
    for path in paths[:2]:
        for index in range(5):
            read_slice(open_volume(path), index)
    assert volumes._decode.cache_info().misses == 2
    read_slice(open_volume(paths[2]), 0)
    assert volumes._decode.cache_info().currsize == 2
    nifti(paths[2], ARRAY + np.int16(1))  # a file that has changed is read again
    np.testing.assert_array_equal(read_slice(open_volume(paths[2]), 0), ARRAY[0] + 1)


def broken_gzip(path):
    content = bytearray(nifti(path).read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


def text(path):
    path.write_text("patient 1\n" * 100)


def cut(path):
    truncate(nifti(path))


def rgb(path):
    values = np.zeros((6, 7, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)


def series(path):
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 7, 5, 2), np.uint8), np.eye(4)), path)


def nan(path):
    values = ARRAY.astype(np.float32)
    values[0, 2, 2] = np.nan
    nifti(path, values)


FAULTS = {
    "bits": (broken_gzip, "a.nii.gz", "damaged"),
    "text": (text, "a.nii", "it is a text file"),
    "text as gz": (text, "a.nii.gz", "it is a text file"),
    "cut": (cut, "a.nii", "damaged"),
    "cut gz": (cut, "a.nii.gz", "damaged"),
    "colours": (rgb, "a.nii", "3 numbers a voxel"),
    "time": (series, "a.nii.gz", r"holds 2 volumes(.|\n)*split the time points"),
    "nan": (nan, "a.nii.gz", "slice 1 holds values that are not finite"),
    "text as mha": (text, "a.mha", "is no MetaImage header"),
    "missing": (lambda path: None, "a.nii", "There is no volume"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_have_their_messages(tmp_path, fault):
    make, name, message = FAULTS[fault]
    make(tmp_path / name)
    with pytest.raises(UserError, match=message) as caught:
        read_volume(open_volume(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)
    assert "what to do" in str(caught.value)


def test_names():
    assert [stem_of(f"x/{name}") for name in ("a.b.nii.gz", "A.NII.GZ", "a.nii", "a.b.mha")] == ["a.b", "A", "a", "a.b"]
    assert [ending_of(f"x/{name}") for name in ("a.b.nii.gz", "A.NII.GZ", "a.b.mha")] == [".nii.gz", ".nii.gz", ".mha"]
    assert [is_volume(name) for name in ("a.nii.GZ", "a.gz", "a.MHD", "a.png")] == [True, False, True, False]


def test_a_constant_volume_is_zero(tmp_path):
    path = nifti(tmp_path / "a.nii", np.full((2, 3, 4), 7, np.int16))
    assert not scaled_slice(open_volume(path), 0).any()


def test_gzip_is_the_same_every_time(tmp_path):
    volume = open_volume(nifti(tmp_path / "a.nii.gz"))
    for name in ("b.nii.gz", "c.nii.gz"):
        write_mask_like(volume, tmp_path / name, MASK)
    assert (tmp_path / "b.nii.gz").read_bytes() == (tmp_path / "c.nii.gz").read_bytes()
    assert gzip.decompress((tmp_path / "b.nii.gz").read_bytes())[344:348] == b"n+1\0"
