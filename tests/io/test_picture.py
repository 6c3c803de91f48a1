"""EXIF orientation against Pillow's ``ImageOps.exif_transpose``."""

import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from lightning_samseg.io.images import orientation_of, read_image, write_image, write_mask_beside
from lightning_samseg.io.masks import read_stored_mask
from lightning_samseg.io.picture import TAG, to_displayed, to_stored

RNG = np.random.default_rng(0)
PIXELS = np.kron(RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))  # survives a JPEG
ORIENTATIONS = range(1, 9)


def save(path, orientation, image=None, **options):
    exif = Image.Exif()
    exif[TAG] = orientation
    (image or Image.fromarray(PIXELS)).save(path, exif=exif, **options)
    return path


def displayed(path):
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_pictures_are_turned_as_viewers_turn_them(tmp_path, name, orientation):
    path = save(tmp_path / name, orientation, **({"lossless": True} if name == "a.webp" else {}))
    read = read_image(path)
    assert read.shape == ((40, 32, 3) if orientation > 4 else (32, 40, 3))
    np.testing.assert_array_equal(read, displayed(path))
    assert orientation_of(path) == orientation
    assert read.flags.c_contiguous


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_tiff_of_other_modes(tmp_path, mode, compression, orientation):
    """Through PNG, for Pillow itself garbles some of these."""
    image = Image.fromarray(PIXELS).convert(mode)
    path = save(tmp_path / "a.tif", orientation, image, compression=compression)
    save(tmp_path / "a.png", orientation, image.convert("RGB" if mode in ("P", "CMYK") else "L"))
    np.testing.assert_array_equal(read_image(path), displayed(tmp_path / "a.png"))


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_deep_colours(tmp_path, orientation):
    """A PNG of 16 bits a channel, into which the EXIF block of another PNG is put."""
    with Image.open(save(tmp_path / "exif.png", orientation)) as image:
        block = b"eXIf" + image.info["exif"].removeprefix(b"Exif\0\0")
    cv2.imwrite(str(tmp_path / "a.png"), PIXELS[..., ::-1].astype(np.uint16) * 251)
    content = (tmp_path / "a.png").read_bytes()
    chunk = (len(block) - 4).to_bytes(4, "big") + block + zlib.crc32(block).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])
    expected = displayed(tmp_path / "exif.png").astype(np.uint16) * 251
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_masks_turn_with_their_pictures(tmp_path, orientation):
    """A mask drawn on the picture as displayed, and one stored as the picture is, mean the same pixels."""
    picture = read_image(save(tmp_path / "a.jpg", orientation))
    ids = (picture[..., 0] > 100).astype(np.uint8)
    write_image(tmp_path / "drawn.png", ids)
    write_mask_beside(tmp_path / "beside.png", ids, tmp_path / "a.jpg")
    for name in ("drawn.png", "beside.png"):
        np.testing.assert_array_equal(read_stored_mask(tmp_path / name).values, ids)
        np.testing.assert_array_equal(displayed(tmp_path / name), ids)
    # Programs that know nothing of EXIF see picture and mask as they are stored, and both fit.
    with Image.open(tmp_path / "a.jpg") as image, Image.open(tmp_path / "beside.png") as mask:
        assert mask.size == image.size
        np.testing.assert_array_equal(np.asarray(mask), np.asarray(image)[..., 0] > 100)
    np.testing.assert_array_equal(to_displayed(to_stored(ids, orientation), orientation), ids)


def test_opencv_shows_the_mask_at_the_right_place(tmp_path):
    picture = read_image(save(tmp_path / "a.jpg", 8))
    write_mask_beside(tmp_path / "m.png", (picture[..., 0] > 100).astype(np.uint8), tmp_path / "a.jpg")
    shown, mask = cv2.imread(str(tmp_path / "a.jpg")), cv2.imread(str(tmp_path / "m.png"), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(shown[..., 2] > 100, mask > 0)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_numbers_that_mean_nothing_leave_the_picture_as_it_is(tmp_path, value):
    path = save(tmp_path / "a.png", value)
    np.testing.assert_array_equal(read_image(path), PIXELS)
    assert orientation_of(path) == 1


def test_a_damaged_exif_block_costs_no_picture(tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff\xff")
    assert read_image(tmp_path / "a.jpg").shape == PIXELS.shape
