"""What NIfTI headers state, what they do not, and files that are something else than their names say."""

import gzip
import io

import nibabel
import numpy as np
import pytest
from PIL import Image

from lightning_samseg.errors import UserError
from lightning_samseg.io.volumes import open_volume, read_slice, read_volume, write_mask_like

VALUES = np.random.default_rng(0).integers(-900, 1200, (7, 6, 5)).astype(np.int16)
MASK = np.random.default_rng(1).integers(0, 4, (5, 6, 7)).astype(np.uint8)
AFFINE = np.array([[-0.5, 0, 0, 30], [0, 0.75, 0, -20], [0, 0, 3, 10], [0, 0, 0, 1.0]])


def content(array=VALUES, affine=AFFINE, kind=nibabel.Nifti1Image, **header):
    image = kind(array, affine)
    for name, value in header.items():
        image.header[name] = value
    return image.to_bytes()


def patched(**fields):
    """A file whose header says what nibabel would not write."""
    whole = content()
    header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(whole), check=False)
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + whole[len(header.binaryblock) :]


NO_FORMS = {"sform_code": 0, "qform_code": 0}


@pytest.mark.parametrize("size", [0, np.nan, np.inf])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_no_voxel_size_is_made_up(tmp_path, name, size):
    pixdim = [1, size, size, size, 1, 1, 1, 1]
    raw = patched(pixdim=pixdim, **NO_FORMS)
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
    volume = open_volume(tmp_path / name)
    assert (volume.spacing, volume.placements) == (None, ())
    np.testing.assert_array_equal(read_volume(volume), VALUES.T)
    write_mask_like(volume, tmp_path / f"mask_{name}", MASK)
    mask = open_volume(tmp_path / f"mask_{name}")
    assert (mask.spacing, mask.placements) == (None, ())
    np.testing.assert_array_equal(read_volume(mask), MASK)


def test_a_voxel_size_that_only_the_affine_knows(tmp_path):
    (tmp_path / "a.nii").write_bytes(patched(pixdim=[1, 0, 0, 0, 1, 1, 1, 1]))
    np.testing.assert_allclose(open_volume(tmp_path / "a.nii").spacing, (3.0, 0.75, 0.5))


def test_a_slice_without_thickness_keeps_its_area(tmp_path):
    image = nibabel.Nifti1Image(VALUES[:, :, :1], None)
    image.header["pixdim"][1:4] = 0.5, 0.75, 0
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    np.testing.assert_allclose(open_volume(tmp_path / "a.nii").spacing[1:], (0.75, 0.5))


def test_negative_sizes_are_sizes(tmp_path):
    (tmp_path / "a.nii").write_bytes(patched(pixdim=[1, -0.5, 0.75, -3, 1, 1, 1, 1], **NO_FORMS))
    np.testing.assert_allclose(open_volume(tmp_path / "a.nii").spacing, (3.0, 0.75, 0.5))


@pytest.mark.parametrize("codes", [{"sform_code": 1}, {"sform_code": 2, "qform_code": 0}])
def test_two_voxel_sizes_are_refused(tmp_path, codes):
    (tmp_path / "a.nii").write_bytes(patched(pixdim=[1, 1, 1, 1, 1, 1, 1, 1], **codes))
    with pytest.raises(UserError, match=r"two voxel sizes(.|\n)*1 x 1 x 1 and 0.5 x 0.75 x 3 mm(.|\n)*set_zooms"):
        open_volume(tmp_path / "a.nii")


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("micron", 0.001), ("meter", 1000), ("unknown", 1)])
def test_units_are_those_of_the_size_and_of_the_place(tmp_path, unit, factor):
    image = nibabel.Nifti1Image(VALUES, AFFINE)
    image.header.set_xyzt_units(unit)
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    volume = open_volume(tmp_path / "a.nii")
    np.testing.assert_allclose(volume.spacing, np.array([3, 0.75, 0.5]) * factor)
    np.testing.assert_allclose(np.array(volume.placements[0].affine)[:3], AFFINE[:3] * factor)


def test_a_mask_keeps_both_statements_of_its_image(tmp_path):
    image = nibabel.Nifti1Image(VALUES, AFFINE)
    image.set_qform(np.diag([0.5, 0.75, 3, 1]), 1)
    image.set_sform(AFFINE, 4)
    image.header["descrip"] = b"scanner 1"
    (tmp_path / "a.nii").write_bytes(image.to_bytes())
    write_mask_like(open_volume(tmp_path / "a.nii"), tmp_path / "m.nii.gz", MASK)
    before, after = (nibabel.load(tmp_path / name).header for name in ("a.nii", "m.nii.gz"))
    for key in before:
        if key not in ("datatype", "bitpix", "scl_slope", "scl_inter", "cal_min", "cal_max", "vox_offset"):
            np.testing.assert_array_equal(before[key], after[key], key)


def test_further_axes_of_size_one_do_not_count(tmp_path):
    for shape in ((7, 6, 5, 1), (7, 6, 5, 1, 1), (7, 6, 1, 1)):
        values = VALUES[: shape[0], : shape[1], : shape[2]].reshape(shape)
        (tmp_path / "a.nii").write_bytes(content(values))
        volume = open_volume(tmp_path / "a.nii")
        assert volume.shape == shape[2::-1]
        np.testing.assert_array_equal(read_volume(volume), values.reshape(shape[:3]).T)
        write_mask_like(volume, tmp_path / "m.nii", MASK[: shape[2]])
        assert nibabel.load(tmp_path / "m.nii").shape == shape


def test_wide_values_keep_their_precision(tmp_path):
    values = 1e9 + np.random.default_rng(0).random((7, 6, 5))
    for name in ("a.nii", "a.nii.gz"):
        raw = content(values)
        (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith("gz") else raw)
        np.testing.assert_array_equal(read_slice(open_volume(tmp_path / name), 2), values[..., 2].T)
    (tmp_path / "a.nii").write_bytes(content(VALUES.astype(np.float64)))
    assert read_slice(open_volume(tmp_path / "a.nii"), 2).dtype == np.float32


def picture(form):
    file = io.BytesIO()
    Image.fromarray(MASK[0]).save(file, form)
    return file.getvalue()


RGB = np.zeros((7, 6, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
META = b"ObjectType = Image\nNDims = 3\nDimSize = 1 1 1\nElementType = MET_UCHAR\nElementDataFile = LOCAL\n\0"
FAULTS = {
    "compressed as nii": ("a.nii", gzip.compress(content()), r"wrong ending: it is gzip(.|\n)*rename it to a\.nii\.gz"),
    "plain as gz": ("a.nii.gz", content(), r"wrong ending: it is not compressed(.|\n)*rename it to a\.nii$"),
    "png": ("a.nii", picture("PNG"), r"wrong ending: it is a PNG picture(.|\n)*rename it to \.png"),
    "metaimage": ("a.nii", META, r"wrong ending: it is a MetaImage volume(.|\n)*rename it to \.mha"),
    "tar.gz": ("a.nii.gz", gzip.compress(bytes(256) + b"\1ustar" + bytes(99)), "it is an archive"),
    "text in gz": ("a.nii.gz", gzip.compress(b"patient 1\n" * 99), "it is a text file"),
    "nrrd": ("a.nii", b"NRRD0004\ntype: short\n", "an NRRD volume"),
    "dicom": ("a.nii", bytes(128) + b"DICM" + bytes(99), r"a DICOM file(.|\n)*dcm2niix"),
    "pair": ("a.nii", nibabel.Nifti1Pair(VALUES, AFFINE).header.binaryblock, r"half of an Analyze or NIfTI pair"),
    "html": ("a.nii.gz", b"<html>Log in</html>", "a web page"),
    "empty": ("a.nii", b"", "empty"),
    "empty gz": ("a.nii.gz", gzip.compress(b""), "empty"),
    "zeros": ("a.nii", bytes(4000), "nothing but zeros"),
    "header cut": ("a.nii", content()[:200], "damaged or cut off"),
    "voxels cut": ("a.nii", content()[:-9], "damaged or cut off"),
    "gzip cut": ("a.nii.gz", gzip.compress(content())[:-40], "damaged or cut off"),
    "gzip cut early": ("a.nii.gz", gzip.compress(content())[:12], "damaged or cut off"),
    "colours": ("a.nii", content(RGB), r"3 numbers a voxel(.|\n)*make them grey"),
    "complex": ("a.nii", content(VALUES.astype(np.complex64)), r"complex numbers(.|\n)*magnitude"),
    "time": ("a.nii", content(np.stack([VALUES] * 4, 3)), r"holds 4 volumes(.|\n)*split the time points"),
    "vectors": ("a.nii", content(np.stack([VALUES] * 3, 3)[:, :, :, None]), r"holds 3 volumes(.|\n)*channels"),
    "one axis": ("a.nii", content(VALUES[:, 0, 0]), "no volume of two or three axes"),
    "bits": ("a.nii", patched(datatype=1, bitpix=1), "damaged"),
    "no type": ("a.nii", patched(datatype=9999), "damaged"),
    "negative size": ("a.nii", patched(dim=[3, 7, -6, 5, 1, 1, 1, 1]), "no volume of two or three axes"),
    "negative depth": ("a.nii", patched(dim=[3, 7, 6, -5, 1, 1, 1, 1]), "no volume of two or three axes"),
    "huge size": ("a.nii", patched(dim=[3, 32000, 32000, 32000, 1, 1, 1, 1]), "damaged or cut off"),
    "bomb": (
        "a.nii.gz",
        gzip.compress(patched(dim=[3, 9000, 9000, 900, 1, 1, 1, 1])),
        r"too large to be read compressed(.|\n)*9000 x 9000 x 900 voxels(.|\n)*\.nii",
    ),
    "no axes": ("a.nii", patched(dim=[0, 7, 6, 5, 1, 1, 1, 1]), "what to do"),
    "too many axes": ("a.nii", patched(dim=[9, 7, 6, 5, 1, 1, 1, 1]), "what to do"),
    "infinite": ("a.nii", content(np.full((4, 4, 2), np.inf, np.float32)), r"slice 1 holds(.|\n)*16 of 16 places"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_it_is_and_what_to_do(tmp_path, case):
    name, whole, message = FAULTS[case]
    (tmp_path / name).write_bytes(whole)
    with pytest.raises(UserError, match=message) as caught:
        read_volume(open_volume(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)
    assert "what to do" in str(caught.value)


def test_folders_and_links_to_nowhere(tmp_path):
    (tmp_path / "a.nii").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        open_volume(tmp_path / "a.nii")
    (tmp_path / "b.nii").symlink_to(tmp_path / "gone.nii")
    with pytest.raises(UserError, match=r"There is no volume(.|\n)*gone\.nii"):
        open_volume(tmp_path / "b.nii")
