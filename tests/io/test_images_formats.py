"""Pictures that are no TIFF: deep colours, JPEG 2000, phones, animations, and damaged files."""

import cv2
import imagecodecs
import numpy as np
import pytest
from PIL import Image

from lightning_samseg.errors import UserError
from lightning_samseg.io.images import read_image, read_picture
from tests.fakes import truncate

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (24, 30), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (24, 30, 3), dtype=np.uint8)


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("shape", [(24, 30), (24, 30, 3), (24, 30, 4)], ids=["grey", "colour", "alpha"])
@pytest.mark.parametrize("name", ["a.jp2", "a.j2k"])
def test_jpeg_2000_of_any_depth(tmp_path, name, shape, bits):
    values = RNG.integers(0, 2**bits, shape).astype(np.uint8 if bits == 8 else np.uint16)
    code = imagecodecs.jpeg2k_encode(values, codecformat=name[2:], bitspersample=bits, reversible=True, level=0)
    (tmp_path / name).write_bytes(code)
    expected = values[..., :3] if values.ndim == 3 else values
    read = read_image(tmp_path / name)
    assert read.dtype == values.dtype
    np.testing.assert_array_equal(read, expected)
    assert not read_picture(tmp_path / name).lossy
    if bits != 12 and len(shape) == 3 and shape[2] == 3:
        other = cv2.imdecode(np.frombuffer(code, np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(read, other[..., ::-1])


def test_jpeg_2000_as_pillow_reads_it(tmp_path):
    for number, image in enumerate([GREY, COLOUR]):
        for lossy in (True, False):
            Image.fromarray(image).save(tmp_path / "a.jp2", irreversible=lossy, quality_layers=[8 if lossy else 0])
            with Image.open(tmp_path / "a.jp2") as opened:
                np.testing.assert_array_equal(read_image(tmp_path / "a.jp2"), np.asarray(opened), str(number))
            assert read_picture(tmp_path / "a.jp2").lossy == lossy


def test_jpeg_of_12_bits(tmp_path):
    smooth = np.add.outer(np.arange(64) * 30, np.arange(64) * 30).astype(np.uint16)
    (tmp_path / "a.jpg").write_bytes(imagecodecs.jpeg8_encode(smooth, level=98, bitspersample=12))
    read = read_image(tmp_path / "a.jpg")
    assert read.dtype == np.uint16
    assert np.abs(read.astype(int) - smooth).max() < 40
    assert read_picture(tmp_path / "a.jpg").lossy


def test_deep_grey_with_transparency_is_grey(tmp_path):
    values = RNG.integers(0, 65536, (24, 30, 2)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(values))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), values[..., 0])


@pytest.mark.parametrize("bits", [2, 4])
def test_png_of_few_bits(tmp_path, bits):
    """By hand, for no writer at hand makes them: the values are kept as ids and stretched as a picture."""
    import struct
    import zlib

    ids = (np.arange(24 * 32) % 2**bits).astype(np.uint8).reshape(24, 32)
    per_byte = 8 // bits
    packed = np.zeros((24, 32 // per_byte), np.uint8)
    for place in range(per_byte):
        packed |= ids[:, place::per_byte] << (8 - bits * (place + 1))
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 32, 24, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        content += struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
    (tmp_path / "a.png").write_bytes(content)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").values, ids)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), cv2.imread(str(tmp_path / "a.png"), 0))


def test_a_phones_picture_with_a_second_view_is_the_first(tmp_path):
    pictures = [Image.fromarray(np.full((16, 24, 3), value, np.uint8)) for value in (200, 20)]
    pictures[0].save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=pictures[1:])
    with Image.open(tmp_path / "a.jpg") as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    picture = read_picture(tmp_path / "a.jpg")
    assert (picture.values == 200).all()
    assert picture.lossy


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_animations_are_no_picture(tmp_path, name):
    frames = [Image.fromarray(np.roll(COLOUR, 5 * shift, 0)) for shift in range(3)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=r"holds 3 pages or frames(.|\n)*file of its own"):
        read_image(tmp_path / name)
    frames[0].quantize(16).save(tmp_path / "one.gif")
    with Image.open(tmp_path / "one.gif") as image:
        np.testing.assert_array_equal(read_image(tmp_path / "one.gif"), np.asarray(image.convert("RGB")))


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path):
    Image.new("1", (15000, 13000)).save(tmp_path / "bomb.png")
    with pytest.raises(UserError, match=r"too large(.|\n)*178,956,970 pixels(.|\n)*195,000,000 pixels(.|\n)*tiles"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "gif", "jp2"])
def test_every_cut_of_a_file_is_refused(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOUR).save(path)
    whole = path.read_bytes()
    for length in np.linspace(1, len(whole) * 3 // 4, 12).astype(int):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="what to do"):
            read_image(path)
    truncate(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_image(path)
