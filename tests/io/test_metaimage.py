"""Our MetaImage reader and writer against SimpleITK's."""

import numpy as np
import pytest

from lightning_samseg.errors import UserError
from lightning_samseg.io.metaimage import read_header, read_slice, read_volume, write_metaimage
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
        ("HeaderSize = 7", "HeaderSize = -1", "unsupported way"),
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
    with pytest.raises(UserError, match="There is no file"):
        read_header(tmp_path / "oct.mhd")
    for compress in (False, True):
        write_metaimage(tmp_path / "oct.mhd", volume("u2"), SPACING, compress)
        truncate(tmp_path / ("oct.zraw" if compress else "oct.raw"))
        with pytest.raises(UserError, match=r"is too short|is damaged"):
            read_volume(read_header(tmp_path / "oct.mhd"))
