"""TIFF files of many writers, against the values that were written and against Pillow, OpenCV and ITK."""

import cv2
import numpy as np
import pytest
import SimpleITK
import tifffile
from PIL import Image

from lightning_samseg.errors import UserError
from lightning_samseg.io.images import read_image, read_picture
from tests.fakes import truncate

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (40, 50), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)
SMOOTH = np.dstack([np.add.outer(np.arange(40), np.arange(50) * s) for s in (1, 2, 3)]).astype(np.uint8)


def typed(name, shape=(40, 50)):
    """Values over the whole range of a number type, such that a wrong byte order, sign or width shows."""
    dtype = np.dtype(name)
    if dtype.kind == "f":
        return RNG.normal(0, 100, shape).astype(dtype)
    bounds = np.iinfo(dtype)
    return RNG.integers(bounds.min, bounds.max, shape, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("name", ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4"])
@pytest.mark.parametrize("shape", [(40, 50), (40, 50, 3), (3, 40, 50)], ids=["grey", "pixels", "planes"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"compression": "lzw", "predictor": True},
        {"compression": "zlib", "tile": (16, 16)},
        {"bigtiff": True, "rowsperstrip": 7},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_every_number_type_as_written(tmp_path, name, shape, options):
    if np.dtype(name) == np.float16 and "predictor" in options:
        options = {"compression": "lzw"}
    values = typed(name, shape)
    kind = {} if len(shape) == 2 else {"photometric": "rgb", "planarconfig": "separate" if shape[0] == 3 else "contig"}
    tifffile.imwrite(tmp_path / "a.tif", values, **options, **kind)
    read = read_image(tmp_path / "a.tif")
    expected = np.moveaxis(values, 0, -1) if shape[0] == 3 else values
    assert read.dtype == ("f4" if name == "f2" else name)
    assert read.dtype.isnative
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, expected)


@pytest.mark.parametrize("name", ["u1", "i1", "u2", "i2", "u4", "i4", "f4"])
def test_what_itk_writes(tmp_path, name):
    values = typed(name)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), str(tmp_path / "a.tif"))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), values)


@pytest.mark.parametrize("compression", ["packbits", "lzma", "zstd", "adobe_deflate", "webp", "jpeg2000", "none"])
def test_lossless_compressions(tmp_path, compression):
    values = COLOUR if compression == "webp" else GREY
    options = {"compressionargs": {"lossless": True}} if compression == "webp" else {}
    tifffile.imwrite(tmp_path / "a.tif", values, compression=compression, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), values)


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "I;16", "I", "F"]
LOSSLESS = [(mode, how) for mode in MODES for how in ("tiff_lzw", "tiff_adobe_deflate", "packbits", None)]
LOSSLESS.remove(("YCbCr", None))  # which Pillow 10 itself cannot read
JPEGS = [(mode, "jpeg") for mode in ("L", "RGB", "CMYK", "YCbCr")]


@pytest.mark.parametrize(("mode", "compression"), [*LOSSLESS, *JPEGS])
def test_what_pillow_reads_is_read_alike(tmp_path, mode, compression):
    if mode == "LA":
        image = Image.fromarray(np.dstack([GREY, GREY.T.reshape(40, 50)]), "LA")
    elif mode == "I;16":
        image = Image.fromarray(GREY.astype(np.uint16) * 251)
    else:
        image = Image.fromarray(SMOOTH if compression == "jpeg" else COLOUR).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.fromarray(GREY))
    image.save(tmp_path / "a.tif", compression=compression)
    with Image.open(tmp_path / "a.tif") as stored:
        stored.load()
        shown = "L" if mode in ("1", "LA") else mode if mode in ("L", "I;16", "I", "F") else "RGB"
        expected = np.asarray(stored.convert(shown))
    read = read_image(tmp_path / "a.tif")
    assert (read.shape, read.dtype.itemsize) == (expected.shape, expected.dtype.itemsize)
    tolerance = 2 if compression == "jpeg" else 0  # two builds of libjpeg
    np.testing.assert_allclose(read.astype(float), expected.astype(float), rtol=0, atol=tolerance)
    assert read_picture(tmp_path / "a.tif").lossy == (compression == "jpeg")


def test_what_opencv_writes(tmp_path):
    for values in (GREY, COLOUR, typed("u2", (40, 50, 3)), typed("f4", (40, 50, 3)), typed("f4"), typed("i2")):
        cv2.imwrite(str(tmp_path / "a.tif"), values[..., ::-1] if values.ndim == 3 else values)
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), values)
    quad = typed("u2", (40, 50, 4))
    cv2.imwrite(str(tmp_path / "a.tif"), quad)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), quad[..., 2::-1])


@pytest.mark.parametrize("name", ["?", "u1", "i1", "u2", "i2", "u4", "f4"])
def test_grey_whose_smallest_value_is_white(tmp_path, name):
    values = GREY > 100 if name == "?" else typed(name)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    tifffile.imwrite(tmp_path / "b.tif", values, photometric="minisblack")
    inverted, as_is = read_image(tmp_path / "a.tif"), read_image(tmp_path / "b.tif")
    assert inverted.dtype == as_is.dtype
    totals = {"b": 255, "u": np.iinfo(as_is.dtype).max if as_is.dtype.kind == "u" else 0, "i": -1, "f": 0}
    np.testing.assert_array_equal(inverted.astype(float) + as_is, totals[values.dtype.kind])
    if name in ("?", "u1"):
        with Image.open(tmp_path / "a.tif") as image:
            np.testing.assert_array_equal(inverted, np.asarray(image.convert("L")))


def write_packed(path, values, bits, photometric=1, colormap=None):
    """Pack numbers of some bits by hand; the rows of ``values`` have to fill whole bytes."""
    digits = values[..., None].astype(np.uint16) >> np.arange(bits - 1, -1, -1) & 1
    packed = np.packbits(digits.astype(np.uint8).reshape(len(values), -1), axis=1)
    palette = (
        [] if colormap is None else [(320, "H", colormap.size, (colormap.T.ravel() * np.uint16(257)).tolist(), True)]
    )
    tifffile.imwrite(path, packed, photometric="minisblack", metadata=None, extratags=palette)
    with tifffile.TiffFile(path, mode="r+") as file:
        tags = file.pages[0].tags
        for name, value in (
            ("ImageWidth", values.shape[1]),
            ("BitsPerSample", bits),
            ("PhotometricInterpretation", photometric),
        ):
            tags[name].overwrite(value)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_stretched_as_pictures_and_kept_as_ids(tmp_path, bits):
    ids = (np.arange(40 * 48) % 2**bits).astype(np.uint8).reshape(40, 48)
    write_packed(tmp_path / "a.tif", ids, bits)
    picture = read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(picture.values, ids)
    assert picture.white == 2**bits - 1
    with Image.open(tmp_path / "a.tif") as image:
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.asarray(image.convert("L")))


def test_12_bits_in_16(tmp_path):
    values = typed("u2", (40, 48)) >> 4
    write_packed(tmp_path / "a.tif", values, 12)
    picture = read_picture(tmp_path / "a.tif")
    np.testing.assert_array_equal(picture.values, values)
    assert picture.white == 4095


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_fax(tmp_path, compression):
    Image.fromarray(GREY > 100).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").values, GREY > 100)


def test_palettes(tmp_path):
    colours = RNG.integers(0, 256, (256, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", GREY, photometric="palette", colormap=colours.T.astype(np.uint16) * 257)
    tifffile.imwrite(tmp_path / "b.tif", GREY, photometric="palette", colormap=colours.T.astype(np.uint16))  # 8 bits
    for name in "ab":
        picture = read_picture(tmp_path / f"{name}.tif")
        np.testing.assert_array_equal(picture.values, GREY)
        np.testing.assert_array_equal(picture.palette, colours)
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.tif"), colours[GREY])


@pytest.mark.parametrize("bits", [1, 4])
def test_palettes_of_few_bits(tmp_path, bits):
    ids = (np.arange(40 * 48) % 2**bits).astype(np.uint8).reshape(40, 48)
    colours = RNG.integers(0, 256, (2**bits, 3), dtype=np.uint8)
    write_packed(tmp_path / "a.tif", ids, bits, 3, colours)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").values, ids)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), colours[ids])
    with Image.open(tmp_path / "a.tif") as image:
        np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.asarray(image.convert("RGB")))


def test_missing_tiles_are_no_black_ones(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY, tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        file.pages[0].tags["ImageLength"].overwrite(4000)
    with pytest.raises(UserError, match=r"damaged or cut off(.|\n)*tiles are missing"):
        read_image(tmp_path / "a.tif")


def test_pyramids_thumbnails_and_ome_are_their_first_picture(tmp_path):
    with tifffile.TiffWriter(tmp_path / "sub.tif") as file:
        file.write(COLOUR, photometric="rgb", subifds=1)
        file.write(COLOUR[::2, ::2], photometric="rgb", subfiletype=1)
    with tifffile.TiffWriter(tmp_path / "levels.tif") as file:
        file.write(COLOUR, photometric="rgb", tile=(16, 16))
        file.write(COLOUR[::2, ::2], photometric="rgb", tile=(16, 16), subfiletype=1)
        file.write(COLOUR[::4, ::4], photometric="rgb", tile=(16, 16), subfiletype=1)
    with tifffile.TiffWriter(tmp_path / "mask.tif") as file:
        file.write(COLOUR, photometric="rgb", metadata=None)
        file.write(GREY > 100, subfiletype=4, metadata=None)
    tifffile.imwrite(tmp_path / "a.ome.tif", COLOUR, photometric="rgb", metadata={"axes": "YXS"})
    tifffile.imwrite(tmp_path / "b.ome.tif", GREY, metadata={"axes": "YX", "PhysicalSizeX": 0.5})
    for name in ("sub", "levels", "mask", "a.ome"):
        np.testing.assert_array_equal(read_image(tmp_path / f"{name}.tif"), COLOUR)
    np.testing.assert_array_equal(read_image(tmp_path / "b.ome.tif"), GREY)


def stack(path, **options):
    tifffile.imwrite(path, np.stack([GREY] * 5), photometric="minisblack", **options)


def ome_channels(path):
    tifffile.imwrite(path, np.stack([GREY] * 2), photometric="minisblack", ome=True, metadata={"axes": "CYX"})


def two_sizes(path):
    with tifffile.TiffWriter(path) as file:
        file.write(GREY, metadata=None)
        file.write(GREY[:20], metadata=None)


def complex_numbers(path):
    tifffile.imwrite(path, GREY.astype(np.complex64))


def not_finite(path):
    values = GREY.astype(np.float32)
    values[3, 3:6] = np.nan, np.inf, -np.inf
    tifffile.imwrite(path, values)


def too_many_pixels(path):
    tifffile.imwrite(path, GREY)
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in ("ImageWidth", "ImageLength"):
            file.pages[0].tags[name].overwrite(20000)


def raw_camera(path):
    tifffile.imwrite(path, GREY, photometric="cfa")


def strange_compression(path):
    tifffile.imwrite(path, GREY)
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["Compression"].overwrite(34661)  # JBIG


REFUSED = {
    "raw pixels of a camera": (raw_camera, r"kind of TIFF cannot be read(.|\n)*colour space(.|\n)*grey or RGB"),
    "compression": (strange_compression, r"kind of TIFF cannot be read(.|\n)*JBIG"),
    "five pages": (stack, r"holds 5 pages(.|\n)*file of its own"),
    "volume of ImageJ": (lambda path: stack(path, imagej=True), "holds 5 pages"),
    "pages of two sizes": (two_sizes, "holds 2 pages"),
    "volume in tiles": (lambda path: stack(path, volumetric=True, tile=(16, 16, 16)), "a stack"),
    "two channels of OME": (ome_channels, "holds 2 pages"),
    "five planes": (lambda path: stack(path, planarconfig="separate"), "holds 5 channels"),
    "two channels": (
        lambda path: tifffile.imwrite(path, np.dstack([GREY] * 2), photometric="minisblack", planarconfig="contig"),
        "holds 2 channels",
    ),
    "complex": (complex_numbers, "plain numbers"),
    "not finite": (not_finite, r"not finite(.|\n)*3 of 2000 places"),
    "too large": (too_many_pixels, r"too large(.|\n)*20,000 x 20,000"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_what_it_is_and_what_to_do(tmp_path, case):
    make, message = REFUSED[case]
    make(tmp_path / "a.tif")
    with pytest.raises(UserError, match=message) as caught:
        read_image(tmp_path / "a.tif")
    assert str(tmp_path / "a.tif") in str(caught.value)
    assert "what to do" in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"compression": "lzw"}, {"compression": "jpeg"}, {"tile": (16, 16)}])
def test_cut_and_damaged_files(tmp_path, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, SMOOTH, photometric="rgb", **options)
    truncate(path)
    with pytest.raises(UserError, match="TIFF picture that is damaged or cut off"):
        read_image(path)


def test_precision_is_kept(tmp_path):
    values = 1e9 + RNG.random((40, 50))
    tifffile.imwrite(tmp_path / "a.tif", values)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), values)  # float32 would be constant
    tifffile.imwrite(tmp_path / "a.tif", values - 1e9)
    assert read_image(tmp_path / "a.tif").dtype == np.float32
    wide = np.array([[-1e300, 1e300]])
    tifffile.imwrite(tmp_path / "a.tif", wide)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), wide)
    for dtype, kept in ((np.int64, np.int32), (np.uint64, np.int32)):
        tifffile.imwrite(tmp_path / "a.tif", GREY.astype(dtype))
        read = read_image(tmp_path / "a.tif")
        assert read.dtype == kept
        np.testing.assert_array_equal(read, GREY)
