"""Our MetaImage reader and writer against SimpleITK's."""

import zlib

import numpy as np
import pytest

from lightning_samseg.errors import UserError
from lightning_samseg.io.metaimage import affine_of, read_header, read_slice, read_volume, write_metaimage
from lightning_samseg.io.volumes import open_volume, write_mask_like
from lightning_samseg.io.volumes import read_volume as read_whole
from tests.fakes import truncate

sitk = pytest.importorskip("SimpleITK")
SPACING = (0.05, 0.002, 0.0117)


def volume(dtype, shape=(4, 6, 5)):
    values = np.random.default_rng(0).integers(0, 120, shape)
    return (values / 3).astype(dtype) if np.dtype(dtype).kind == "f" else values.astype(dtype)


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize(("ending", "compress"), [(".mhd", False), (".mhd", True), (".mha", False), (".mha", True)])
def test_what_simpleitk_writes_we_read(tmp_path, dtype, ending, compress):
    array = volume(dtype)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    sitk.WriteImage(image, str(tmp_path / f"oct{ending}"), compress)
    header = read_header(tmp_path / f"oct{ending}")
    assert (header.shape, header.compressed) == ((4, 6, 5), compress)
    assert header.spacing == pytest.approx(SPACING)
    np.testing.assert_array_equal(read_volume(header), array)
    assert read_volume(header).dtype == array.dtype
    np.testing.assert_array_equal(read_slice(header, 2), array[2])


@pytest.mark.parametrize(("name", "compress"), [("a.mhd", False), ("a.mhd", True), ("a.mha", False), ("a.mha", True)])
def test_what_we_write_simpleitk_reads(tmp_path, name, compress):
    array = volume("u2")
    write_metaimage(tmp_path / name, array, SPACING, compress)
    image = sitk.ReadImage(str(tmp_path / name))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), array)
    assert image.GetSpacing() == pytest.approx(SPACING[::-1])
    flat = volume("f4", (7, 3))
    write_metaimage(tmp_path / name, flat, (0.5, 0.25), compress)
    np.testing.assert_array_equal(read_volume(read_header(tmp_path / name)), flat)


def test_big_endian_and_skipped_bytes(tmp_path):
    array = volume("u2")
    (tmp_path / "oct.raw").write_bytes(b"seven b" + array.astype(">u2").tobytes())
    (tmp_path / "oct.mhd").write_text(HEADER.replace("MSB = False", "MSB = True") + "ElementDataFile = oct.raw\n")
    header = read_header(tmp_path / "oct.mhd")
    np.testing.assert_array_equal(read_volume(header), array)
    np.testing.assert_array_equal(read_slice(header, 3), array[3])
    assert read_slice(header, 3).dtype.isnative


HEADER = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
HeaderSize = 7
DimSize = 5 6 4
ElementSpacing = 1 1 1
ElementType = MET_USHORT
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ObjectType = Image", "Kvasir", "is no MetaImage header(.|\n)*Kvasir"),
        ("ElementDataFile = oct.raw\n", "", "is no MetaImage header(.|\n)*its end"),
        ("DimSize = 5 6 4\n", "", "does not tell the size"),
        ("DimSize = 5 6 4", "DimSize = 5 six 4", "does not tell the size"),
        ("DimSize = 5 6 4", "DimSize = 5 6 4 2", "2 or 3 positive sizes"),
        ("DimSize = 5 6 4", "DimSize = 5 6 0", "2 or 3 positive sizes"),
        ("Spacing = 1 1 1", "Spacing = 1 0 1", "2 or 3 positive sizes"),
        ("MET_USHORT", "MET_USHORT_ARRAY", "unsupported type"),
        ("BinaryData = True", "BinaryData = False", "unsupported way"),
        ("HeaderSize = 7", "HeaderSize = -2", "unsupported way"),
        ("DimSize = 5 6 4", "DimSize = 5 6 5", r"oct\.raw is too short(.|\n)*300 bytes(.|\n)*240 bytes"),
        ("oct.raw", "other.raw", "missing data file"),
        ("oct.raw", "oct%03d.raw 1 4 1", "several data files"),
        ("HeaderSize = 7", "CompressedData = True", "damaged"),
    ],
)
def test_header_that_does_not_fit(tmp_path, old, new, message):
    (tmp_path / "oct.raw").write_bytes(b"seven b" + volume("u2").tobytes())
    (tmp_path / "oct.mhd").write_text((HEADER + "ElementDataFile = oct.raw\n").replace(old, new))
    with pytest.raises(UserError, match=message) as raised:
        read_volume(read_header(tmp_path / "oct.mhd"))
    assert "oct." in str(raised.value)


def test_missing_and_cut_files(tmp_path):
    with pytest.raises(UserError, match="There is no volume"):
        read_header(tmp_path / "oct.mhd")
    for compress in (False, True):
        write_metaimage(tmp_path / "oct.mhd", volume("u2"), SPACING, compress)
        truncate(tmp_path / ("oct.zraw" if compress else "oct.raw"))
        with pytest.raises(UserError, match=r"is too short|is damaged"):
            read_volume(read_header(tmp_path / "oct.mhd"))


def read_by_both(path):
    image = sitk.ReadImage(str(path))
    return read_volume(read_header(path)), sitk.GetArrayFromImage(image), image


@pytest.mark.parametrize(("element", "code"), [("MET_LONG", "<i4"), ("MET_ULONG", "<u4"), ("MET_UINT", "<u4")])
def test_long_has_four_bytes_as_in_itk(tmp_path, element, code):
    values = np.random.default_rng(0).integers(0, 2**31, (4, 6, 5)).astype(code)
    (tmp_path / "oct.raw").write_bytes(values.tobytes())
    header = HEADER.replace("MET_USHORT", element).replace("HeaderSize = 7\n", "")
    (tmp_path / "oct.mhd").write_text(header + "ElementDataFile = oct.raw\n")
    ours, theirs, _ = read_by_both(tmp_path / "oct.mhd")
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(ours, values)


def test_voxels_at_the_end_of_a_file(tmp_path):
    values = volume("u2")
    (tmp_path / "oct.raw").write_bytes(b"whatever comes first" + values.tobytes())
    (tmp_path / "oct.mhd").write_text(HEADER.replace("= 7", "= -1") + "ElementDataFile = oct.raw\n")
    ours, theirs, _ = read_by_both(tmp_path / "oct.mhd")
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(read_slice(read_header(tmp_path / "oct.mhd"), 1), values[1])


@pytest.mark.parametrize("names", [("TransformMatrix", "Offset"), ("Orientation", "Position"), ("Rotation", "Origin")])
def test_where_voxels_lie(tmp_path, names):
    (tmp_path / "oct.raw").write_bytes(volume("u2").tobytes())
    place = f"{names[0]} = 0 -1 0 1 0 0 0 0 1\n{names[1]} = 10 -20 3\nCenterOfRotation = 5 5 5\n"
    header = HEADER.replace("HeaderSize = 7\n", place).replace("1 1 1", "1.5 1.25 8", 1)
    (tmp_path / "oct.mhd").write_text(header + "ElementDataFile = oct.raw\n")
    _, _, image = read_by_both(tmp_path / "oct.mhd")
    affine = affine_of(read_header(tmp_path / "oct.mhd"))
    for index in ((0, 0, 0), (3, 2, 1)):
        point = np.diag([-1, -1, 1]) @ image.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((affine @ [*index, 1])[:3], point)


def test_units_and_no_place(tmp_path):
    (tmp_path / "oct.raw").write_bytes(volume("u2").tobytes())
    header = HEADER.replace("HeaderSize = 7", "DistanceUnits = um").replace("= 1 1 1", "= 11.7 2 50")
    (tmp_path / "oct.mhd").write_text(header + "ElementDataFile = oct.raw\n")
    assert read_header(tmp_path / "oct.mhd").spacing == pytest.approx((0.05, 0.002, 0.0117))
    assert affine_of(read_header(tmp_path / "oct.mhd")) is None


def test_a_fourth_axis_of_one(tmp_path):
    values = volume("i2", (1, 4, 6, 5))
    image = sitk.GetImageFromArray(values, isVector=False)
    image.SetSpacing((0.5, 0.75, 3, 1))
    image.SetOrigin((1, 2, 3, 4))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    opened = open_volume(tmp_path / "a.mha")
    assert (opened.shape, opened.spacing) == ((4, 6, 5), (3, 0.75, 0.5))
    np.testing.assert_allclose(np.array(opened.placements[0].affine)[:, 3], (-1, -2, 3, 1))
    np.testing.assert_array_equal(read_whole(opened), values[0])
    write_mask_like(opened, tmp_path / "m.mha", values[0].astype(np.uint8))
    mask = sitk.ReadImage(str(tmp_path / "m.mha"))
    for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(mask, get)() == getattr(image, get)(), get


REFUSED = {
    "time": ("DimSize = 5 6 4", "DimSize = 5 6 2 2", r"holds 2 volumes(.|\n)*split the time points"),
    "colours": ("ElementType", "ElementNumberOfChannels = 3\nElementType", r"holds 3 numbers(.|\n)*one channel"),
    "too long": ("DimSize = 5 6 4", "DimSize = 5 6 3", r"oct\.raw is too long(.|\n)*180 bytes(.|\n)*240 bytes"),
    "text": ("BinaryData = True", "BinaryData = False", r"unsupported way(.|\n)*BinaryData = False(.|\n)*SimpleITK"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_it_is_and_what_to_do(tmp_path, case):
    old, new, message = REFUSED[case]
    (tmp_path / "oct.raw").write_bytes(volume("u2").tobytes())
    header = HEADER.replace("HeaderSize = 7\n", "").replace(old, new)
    if case == "time":
        header = header.replace("NDims = 3", "NDims = 4").replace("1 1 1", "1 1 1 1")
    (tmp_path / "oct.mhd").write_text(header + "ElementDataFile = oct.raw\n")
    with pytest.raises(UserError, match=message):
        read_volume(read_header(tmp_path / "oct.mhd"))


@pytest.mark.parametrize("change", [lambda c: c[:-6], lambda c: c[:-1] + b"x", lambda c: zlib.compress(bytes(481))])
def test_compressed_voxels_are_checked_to_their_end(tmp_path, change):
    write_metaimage(tmp_path / "oct.mhd", volume("u2", (4, 6, 10)), SPACING, compress=True)
    data = tmp_path / "oct.zraw"
    data.write_bytes(change(data.read_bytes()))
    with pytest.raises(UserError, match=r"oct\.zraw is damaged"):
        read_volume(read_header(tmp_path / "oct.mhd"))


def test_a_compressed_volume_that_would_fill_the_memory(tmp_path):
    write_metaimage(tmp_path / "a.mha", volume("u2"), SPACING, compress=True)
    content = (tmp_path / "a.mha").read_bytes().replace(b"DimSize = 5 6 4", b"DimSize = 50000 60000 40")
    (tmp_path / "a.mha").write_bytes(content)
    with pytest.raises(UserError, match=r"too large to be read compressed(.|\n)*50000 x 60000 x 40(.|\n)*by slice"):
        read_header(tmp_path / "a.mha")


def test_another_kind_of_file(tmp_path):
    (tmp_path / "a.mha").write_bytes(b"NRRD0004\ntype: short\n")
    with pytest.raises(UserError, match="it is an NRRD volume"):
        read_header(tmp_path / "a.mha")
