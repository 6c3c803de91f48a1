import cv2
import numpy as np
import pytest
from PIL import Image

from lightning_samseg.errors import UserError
from lightning_samseg.io.images import (
    read_image,
    to_grey,
    to_rgb_uint8,
    write_image,
)
from lightning_samseg.io.masks import read_stored_mask
from tests.fakes import truncate

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
MASK = np.zeros((20, 30), bool)
MASK[4:12, 5:20] = True


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
@pytest.mark.parametrize("image", [GREY, COLOUR])
def test_lossless_formats_come_back_as_written(tmp_path, suffix, image):
    write_image(tmp_path / f"a.{suffix}", image)
    read = read_image(tmp_path / f"a.{suffix}")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, image)


def test_jpeg(tmp_path):
    smooth = np.repeat(np.linspace(0, 255, 64).astype(np.uint8)[None], 64, axis=0)
    write_image(tmp_path / "a.jpg", smooth)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - smooth).max() < 8


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_keeps_its_values(tmp_path, suffix):
    deep = GREY.astype(np.uint16) * np.uint16(251)
    write_image(tmp_path / f"a.{suffix}", deep)
    read = read_image(tmp_path / f"a.{suffix}")
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, deep)


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_colours_of_12_bits_are_not_cut_to_4(tmp_path, suffix, alpha):
    deep = RNG.integers(0, 4096, (20, 30, 3)).astype(np.uint16)
    stored = np.dstack([deep[..., ::-1], deep[..., :1]]) if alpha else deep[..., ::-1]
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), stored)
    read = read_image(tmp_path / f"a.{suffix}")
    assert (read.dtype, read.flags.c_contiguous) == (np.uint16, True)
    np.testing.assert_array_equal(read, deep)
    assert to_rgb_uint8(read).max() == 255
    truncate(tmp_path / f"a.{suffix}")
    with pytest.raises(UserError, match="cannot be read"):
        read_image(tmp_path / f"a.{suffix}")


def test_big_endian_16_bit(tmp_path):
    Image.frombytes("I;16B", (30, 20), (GREY.astype(np.uint16) * 100).astype(">u2").tobytes()).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), GREY.astype(np.uint16) * 100)


def test_palette_and_alpha_become_rgb(tmp_path):
    alpha = np.dstack([COLOUR, np.full((20, 30), 7, np.uint8)])
    Image.fromarray(alpha).save(tmp_path / "rgba.png")
    np.testing.assert_array_equal(read_image(tmp_path / "rgba.png"), COLOUR)
    image = Image.fromarray(GREY // 128).convert("P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.save(tmp_path / "p.png")
    expected = np.array([[10, 20, 30], [200, 100, 50]], np.uint8)[GREY // 128]
    np.testing.assert_array_equal(read_image(tmp_path / "p.png"), expected)


def test_float_image_with_nan_is_refused(tmp_path):
    values = GREY.astype(np.float32)
    Image.fromarray(values).save(tmp_path / "fine.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "fine.tif"), values)
    values[3, 3] = np.nan
    Image.fromarray(values).save(tmp_path / "nan.tif")
    with pytest.raises(UserError, match=r"nan\.tif.*not finite"):
        read_image(tmp_path / "nan.tif")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_truncated_file_is_named(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    write_image(path, COLOUR)
    truncate(path)
    for read in (read_image, read_stored_mask):
        with pytest.raises(UserError, match=rf"cut\.{suffix}.*damaged or cut off") as caught:
            read(path)
        assert "what to do" in str(caught.value)


def test_no_image_missing_file_and_several_pages(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(UserError, match=r"text\.png"):
        read_image(tmp_path / "text.png")
    (tmp_path / "empty.png").touch()
    with pytest.raises(UserError, match="0 bytes"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(UserError, match="no image file"):
        read_image(tmp_path / "absent.png")
    pages = [Image.fromarray(GREY), Image.fromarray(GREY)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match="2 pages"):
        read_image(tmp_path / "stack.tif")


def test_conversions():
    np.testing.assert_array_equal(to_grey(GREY), GREY)
    luma = np.array([0.299, 0.587, 0.114])
    assert np.abs(to_grey(COLOUR) - COLOUR @ luma).max() <= 1
    equal = np.repeat(GREY[..., None], 3, axis=2)
    np.testing.assert_array_equal(to_grey(equal), GREY)
    np.testing.assert_array_equal(to_rgb_uint8(GREY), equal)
    deep = to_rgb_uint8(np.array([[1000, 3000], [2000, 1000]], np.uint16))
    np.testing.assert_array_equal(deep[..., 0], [[0, 255], [128, 0]])
    assert to_rgb_uint8(np.full((2, 2), 9.0, np.float32)).max() == 0
