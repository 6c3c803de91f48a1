"""Mask files of any format and mode as numbers, and these as labels."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from lightning_samseg.errors import UserError
from lightning_samseg.io.images import read_image, write_image
from lightning_samseg.io.mask_levels import look_at
from lightning_samseg.io.mask_rules import decide
from lightning_samseg.io.masks import MaskRule, as_label, read_stored_mask
from tests.fakes import write_mask
from tests.io.mask_files import IDS, MASK, equal, labels, palette, soft, write

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "P", "LA"])
def test_binary_mask_of_any_mode(tmp_path, mode):
    masks = [MASK, np.zeros_like(MASK), np.ones_like(MASK)]
    for number, mask in enumerate(masks):
        write_mask(tmp_path / f"m{number}.png", mask, mode)
    kind, found = labels([tmp_path / f"m{number}.png" for number in range(3)])
    assert kind == "binary"
    equal(found, masks)


def test_modes_side_by_side(tmp_path):
    modes = ("1", "L", "P", "RGB", "RGBA", "LA")
    for mode in modes:
        write_mask(tmp_path / f"{mode}.png", MASK, mode)
    write_image(tmp_path / "deep.png", MASK.astype(np.uint16) * np.uint16(65535))
    kind, found = labels([tmp_path / f"{mode}.png" for mode in (*modes, "deep")])
    assert kind == "binary"
    equal(found, [MASK] * 7)


def test_transparent_mask_is_read_from_its_colours(tmp_path):
    alpha = np.zeros((20, 30, 4), np.uint8)
    alpha[..., :3][MASK] = 255
    alpha[..., 3] = np.where(MASK, 0, 255)  # the opposite of the mask
    equal(labels(write(tmp_path, [alpha]))[1], [MASK])
    alpha[..., :3] = 0
    with pytest.raises(UserError, match=r"None of the 1 masks(.|\n)*transparency is not read as a mask"):
        labels(write(tmp_path, [alpha]))


@pytest.mark.parametrize(("dtype", "value"), [(np.uint8, 1), (np.uint8, 100), (np.uint16, 1), (np.uint16, 65535)])
def test_single_level_is_foreground(tmp_path, dtype, value):
    kind, found = labels(write(tmp_path, [MASK.astype(dtype) * dtype(value)]))
    assert kind == "binary"
    equal(found, [MASK])


def test_each_mask_with_a_level_of_its_own_is_binary_on_request(tmp_path):
    paths = write(tmp_path, [MASK.astype(np.uint8) * np.uint8(value) for value in (1, 100, 255)])
    with pytest.raises(UserError, match=r"fit no rule(.|\n)*0, 1, 100, 255(.|\n)*--data.masks binary"):
        labels(paths)
    equal(labels(paths, "binary")[1], [MASK] * 3)


@pytest.mark.parametrize(("ending", "quality"), [("jpg", 60), ("jpg", 90), ("webp", 60), ("jp2", None)])
def test_noise_of_lossy_masks_does_not_count(tmp_path, ending, quality):
    big = np.kron(MASK, np.ones((7, 7), bool))
    options = (
        {"quality": quality} if quality else {"irreversible": True, "quality_mode": "rates", "quality_layers": [9]}
    )
    arrays = [big.astype(np.uint8) * np.uint8(255), np.repeat(big[..., None] * np.uint8(255), 3, axis=2)]
    paths = write(tmp_path, arrays, ending, **options)
    assert len(np.unique(np.asarray(Image.open(paths[0])))) > 2
    kind, found = labels(paths)
    assert kind == "binary"
    equal(found, [big] * 2)
    dark = np.zeros((16, 16), np.uint8)
    dark[3, 3] = 9
    Image.fromarray(dark).save(tmp_path / "dark.jpg", quality=100)
    equal(labels([*paths, tmp_path / "dark.jpg"])[1][2:], [dark * 0])


def test_classes_in_a_jpeg_are_refused(tmp_path):
    big = np.kron(IDS, np.ones((7, 7), np.uint8))
    with pytest.raises(UserError, match=r"m0\.jpg is not binary"):
        labels(write(tmp_path, [big], "jpg", quality=95))
    with pytest.raises(UserError, match=r"m0\.jpg is not binary"):
        labels(write(tmp_path, [big * np.uint8(85)], "jpg", quality=95))
    with pytest.raises(UserError, match=r"m0\.jpg was compressed with loss, which changes numbers"):
        labels(write(tmp_path, [big], "jpg"), "indexed")
    with pytest.raises(UserError, match=r"m0\.jpg was compressed with loss, so that the ignored value"):
        labels(write(tmp_path, [(big > 0) * np.uint8(255)], "jpg"), ignore=255)


def test_jpeg_noise_in_a_png(tmp_path):
    """Kvasir's masks were published as JPEG and passed on as PNG."""
    big = np.kron(MASK, np.ones((7, 7), bool))
    (jpeg,) = write(tmp_path, [big.astype(np.uint8) * np.uint8(255)], "jpg", quality=60)
    paths = write(tmp_path, [np.asarray(Image.open(jpeg))])
    equal(labels(paths)[1], [big])
    equal(labels(paths, "binary")[1], [big])


def test_indexed_masks_of_any_mode(tmp_path):
    indices = palette(IDS, (0, 0, 0), (128, 0, 0), (0, 128, 0), (0, 0, 128))
    paths = write(tmp_path, [indices, IDS, np.dstack([IDS] * 3), IDS.astype(np.uint16)])
    for masks in ("auto", "indexed"):
        kind, found = labels(paths, masks)
        assert kind == "indexed"
        equal(found, [IDS] * 4)
    write_mask(tmp_path / "one.png", MASK, "1")
    equal(labels([*paths, tmp_path / "one.png"])[1], [*[IDS] * 4, MASK])


def test_greys_of_a_palette_are_levels_unless_indices_are_asked_for(tmp_path):
    paths = write(tmp_path, [palette(IDS, (0, 0, 0), (85, 85, 85), (170, 170, 170), (255, 255, 255))])
    with pytest.raises(UserError, match="0, 85, 170, 255"):
        labels(paths)
    equal(labels(paths, "indexed")[1], [IDS])
    inverted = palette((~MASK).astype(np.uint8), (255, 255, 255), (0, 0, 0))
    equal(labels(write(tmp_path, [inverted]))[1], [MASK])
    ramp = np.linspace(0, 255, 12).round().astype(int)
    mask = soft(11, "u1")
    equal(labels(write(tmp_path, [palette(mask, *((level,) * 3 for level in ramp))]))[1], [mask > 5])


def test_grey_of_four_bits(tmp_path):
    """As by optimisers of PNG files, which keep the shades: 15 is white."""
    for values, masks, expected in ((MASK * 15, "auto", MASK), (IDS, "indexed", IDS), (soft(15, "u1"), "auto", None)):
        packed = np.asarray(values, np.uint8)
        packed = (packed[:, ::2] << 4 | packed[:, 1::2]).tobytes()
        path = tmp_path / "m.png"
        path.write_bytes(grey_png(packed, values.shape, bits=4))
        (found,) = labels([path], masks)[1]
        np.testing.assert_array_equal(found, values > 7 if expected is None else expected)


def grey_png(packed, shape, bits):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    stride = len(packed) // shape[0]
    rows = b"".join(b"\0" + packed[first : first + stride] for first in range(0, len(packed), stride))
    head = struct.pack(">IIBBBBB", shape[1], shape[0], bits, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def test_colours_that_are_classes_are_refused(tmp_path):
    coloured = np.zeros((20, 30, 3), np.uint8)
    coloured[2:8, 2:8, 0] = coloured[12:18, 5:25, 1] = 255
    red, green = (np.where([channel == n for n in range(3)], coloured, 0).astype(np.uint8) for channel in (0, 1))
    big = np.kron(coloured, np.ones((7, 7, 1), np.uint8))
    for masks in ("auto", "binary", "soft", "indexed", "instances"):
        with pytest.raises(UserError, match="in colour"):
            labels(write(tmp_path, [coloured]), masks)
        with pytest.raises(UserError, match="in colour"):
            labels(write(tmp_path, [big], "jpg", quality=95), masks)
    with pytest.raises(UserError, match=r"in colour(.|\n)*#00ff00, #ff0000"):
        labels(write(tmp_path, [red, green]))
    equal(labels(write(tmp_path, [red]))[1], [red.any(axis=2)])


def test_boolean_arrays_of_tifffile_are_read_in_two_ways(tmp_path):
    """Its default for them is MinIsWhite, which it does not follow itself when it reads."""
    mask = np.zeros((20, 30), bool)
    mask[5:12, 4:17] = True
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, mask)
    np.testing.assert_array_equal(tifffile.imread(path), mask)
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_image(path), np.asarray(image.convert("L")))
        np.testing.assert_array_equal(read_image(path) == 0, mask)
    with pytest.raises(UserError, match="a boolean array that tifffile"):
        as_label(read_stored_mask(path), MaskRule("binary"), path)
    decided = decide(look_at([path]))
    assert "photometric='minisblack'" in str(decided.faults[path])
    for sure in ({"photometric": "minisblack"}, {"photometric": "miniswhite", "software": "another"}):
        tifffile.imwrite(path, ~mask if "software" in sure else mask, **sure)
        np.testing.assert_array_equal(as_label(read_stored_mask(path), MaskRule("binary"), path), mask)
    tifffile.imwrite(path, mask.astype("uint8") * 255)
    np.testing.assert_array_equal(as_label(read_stored_mask(path), decide(look_at([path])).rule, path), mask)
