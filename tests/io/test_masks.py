"""What mask files mean: one rule for all masks of a data set, from the values of all of them."""

import os
import struct
import zlib

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from lightning_samseg.errors import UserError
from lightning_samseg.io import mask_levels
from lightning_samseg.io.images import read_image, write_image
from lightning_samseg.io.mask_levels import levels_of, look_at
from lightning_samseg.io.mask_rules import decide, describe
from lightning_samseg.io.masks import MaskRule, as_instances, as_label, read_stored_mask
from lightning_samseg.types import IGNORED
from tests.fakes import write_mask

MASK = np.zeros((20, 30), bool)
MASK[4:12, 5:20] = True
IDS = np.zeros((20, 30), np.uint8)
IDS[2:8, 2:8], IDS[2:8, 12:18], IDS[12:18, 5:25] = 1, 2, 3


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SAMSEG_CACHE", str(tmp_path / "cache"))


def soft(largest, dtype, size=48):
    """A disc with linear edges of 5 pixels, 0..largest; and where it exceeds the half."""
    rows, columns = np.mgrid[:size, :size]
    inside = np.clip((size / 3 - np.hypot(rows - size / 2, columns - size / 2)) / 5 + 0.5, 0, 1)
    values = inside * largest
    return (values if np.dtype(dtype).kind == "f" else np.rint(values)).astype(dtype)


def write(folder, arrays, ending="png", **options):
    folder.mkdir(exist_ok=True)
    paths = []
    for number, array in enumerate(arrays):
        path = folder / f"m{number}.{ending}"
        (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(path, **options)
        paths.append(path)
    return paths


def labels(paths, masks="auto", ignore=None, names=()):
    """The rule's kind and the label of each mask, as a layout gets them."""
    rule, faults = decide(look_at(paths, ignore, masks == "indexed" or len(names) > 1), masks, ignore, names)
    for error in faults.values():
        raise error
    return rule.kind, [as_label(read_stored_mask(path, rule.indices), rule, path) for path in paths]


def equal(found, expected):
    for label, array in zip(found, expected, strict=True):
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(label, array)


def palette(indices, *colours):
    image = Image.fromarray(indices, "P")
    image.putpalette([part for colour in colours for part in colour])
    return image


# Binary ---------------------------------------------------------------------------------------------------------------


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


# Void rims and ignored values -----------------------------------------------------------------------------------------


def void():
    values = MASK.astype(np.uint8)
    values[2:14, 3:22][~MASK[2:14, 3:22]] = 255
    return values


@pytest.mark.parametrize("masks", ["auto", "binary", "indexed", "instances"])
def test_a_void_rim_is_refused_unless_it_is_ignored(tmp_path, masks):
    paths = write(tmp_path, [void(), void()])
    with pytest.raises(UserError, match=r"0, 1, 255(.|\n)*--data.ignore 255"):
        labels(paths, masks)
    expected = np.where(void() == 255, IGNORED, void())
    equal(labels(paths, masks, ignore=255)[1], [expected] * 2)


def test_a_void_rim_in_a_single_mask_is_found(tmp_path):
    paths = write(tmp_path, [MASK.astype(np.uint8)] * 60 + [void()])
    with pytest.raises(UserError, match=r"values 0, 1, 255 in m60\.png"):
        labels(paths)


def test_voids_alone_are_no_foreground(tmp_path):
    alone = (~MASK).astype(np.uint8) * np.uint8(255)
    with pytest.raises(UserError, match="0, 1, 255"):
        labels(write(tmp_path, [MASK.astype(np.uint8), alone]))
    equal(
        labels(write(tmp_path, [MASK.astype(np.uint8), alone]), ignore=255)[1],
        [MASK, np.where(MASK, 0, IGNORED)],
    )


def test_thin_rims_and_thin_objects(tmp_path):
    """One pixel wide, so that no area tells the levels apart."""
    thin = np.zeros((20, 30), np.uint8)
    thin[5, 3:20], thin[4, 3:20], thin[6, 3:20] = 1, 255, 255
    for masks in ("auto", "binary"):
        with pytest.raises(UserError, match="0, 1, 255"):
            labels(write(tmp_path, [thin]), masks)


@pytest.mark.parametrize("ignore", [4, 9, 255])
def test_ignored_value_among_classes(tmp_path, ignore):
    values = IDS.copy()
    values[0] = ignore
    expected = np.where(values == ignore, IGNORED, values)
    kind, found = labels(write(tmp_path, [values]), ignore=ignore)
    assert kind == "indexed"
    equal(found, [expected])


def test_voc_palette(tmp_path):
    colours = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), *[(9, 9, 9)] * 251, (224, 224, 192)]
    values = IDS.copy()
    values[0] = 255
    expected = np.where(values == 255, IGNORED, values)
    paths = write(tmp_path, [palette(values, *colours), palette(IDS, *colours)])
    equal(labels(paths, ignore=255)[1], [expected, IDS])
    one = [palette((IDS == 2) * np.uint8(2), *colours), palette((IDS == 1).astype(np.uint8), *colours)]
    assert labels(write(tmp_path, one))[0] == "indexed"  # a class in each image


def test_options_that_make_no_sense(tmp_path):
    paths = write(tmp_path, [IDS])
    with pytest.raises(UserError, match="would ignore the background"):
        labels(paths, ignore=0)
    with pytest.raises(UserError, match=r"2 is a class, too(.|\n)*cell"):
        labels(paths, ignore=2, names=("nucleus", "cell", "stroma"))
    with pytest.raises(UserError, match="Masks that are soft have one class, but 2 are named"):
        labels(paths, "soft", names=("nucleus", "cell"))
    rule, _ = decide(look_at(paths, 7), "auto", 7)
    assert describe(rule, look_at(paths, 7)) == [
        "masks: values are class ids 1..3, 7 is ignored",
        "no mask holds the ignored value 7",
    ]


# Soft masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("largest", "dtype", "ending"), [(255, "u1", "png"), (65535, "u2", "png"), (65535, "u2", "tif"), (1, "f4", "tif")]
)
@pytest.mark.parametrize("masks", ["auto", "binary", "soft"])
def test_soft_edges_are_cut_at_half_of_the_range(tmp_path, largest, dtype, ending, masks):
    mask = soft(largest, dtype)
    kind, found = labels(write(tmp_path, [mask, mask.T, mask * 0], ending), masks)
    assert kind == ("soft" if masks == "auto" else masks)
    equal(found, [mask > largest / 2, (mask > largest / 2).T, mask * 0])


def test_soft_masks_of_several_types(tmp_path):
    paths = [*write(tmp_path / "a", [soft(255, "u1")]), *write(tmp_path / "b", [soft(65535, "u2")])]
    kind, found = labels(paths)
    assert kind == "soft"
    equal(found, [soft(255, "u1") >= 128, soft(65535, "u2") >= 32768])


def test_few_levels_at_edges_are_soft(tmp_path):
    """Drawn at twice the size and halved: 0, 64, 128, 191, 255."""
    big = np.hypot(*(np.mgrid[:96, :96] - 47)) < 30
    mask = np.rint(255 * big.reshape(48, 2, 48, 2).mean((1, 3))).astype(np.uint8)
    assert len(np.unique(mask)) == 5
    assert labels(write(tmp_path, [mask]))[0] == "soft"
    coloured = np.stack([mask, mask // 2, mask * 0], axis=2)
    equal(labels(write(tmp_path, [coloured]))[1], [mask > 127])


def test_other_ranges_are_soft_on_request(tmp_path):
    for largest, dtype in ((4095, "u2"), (100, "u1"), (3, "f4")):
        mask = soft(largest, dtype)
        paths = write(tmp_path, [mask], "tif")
        with pytest.raises(UserError, match=r"fit no rule(.|\n)*--data.masks soft"):
            labels(paths)
        equal(labels(paths, "soft")[1], [mask > largest / 2])


@pytest.mark.parametrize("levels", [(90, 255), (64, 128, 191, 255), (85, 170, 255), (40, 41, 255)])
def test_painted_classes_are_not_soft(tmp_path, levels):
    values = np.array((0, *levels), np.uint8)[np.minimum(IDS, len(levels))]
    if len(levels) == 4:
        values[12:18, 15:25] = 64
    for masks in ("auto", "binary"):
        with pytest.raises(UserError, match=r"fit no rule|is not binary"):
            labels(write(tmp_path, [values]), masks)


# Class ids ------------------------------------------------------------------------------------------------------------


def test_indexed_masks_of_any_mode(tmp_path):
    indices = palette(IDS, (0, 0, 0), (128, 0, 0), (0, 128, 0), (0, 0, 128))
    paths = write(tmp_path, [indices, IDS, np.dstack([IDS] * 3), IDS.astype(np.uint16)])
    for masks in ("auto", "indexed"):
        kind, found = labels(paths, masks)
        assert kind == "indexed"
        equal(found, [IDS] * 4)
    write_mask(tmp_path / "one.png", MASK, "1")
    equal(labels([*paths, tmp_path / "one.png"])[1], [*[IDS] * 4, MASK])


def test_a_class_that_comes_late_counts(tmp_path):
    first = MASK.astype(np.uint8)
    paths = write(tmp_path, [first] * 60 + [first * np.uint8(2)])
    kind, found = labels(paths)
    assert kind == "indexed"
    equal(found, [first] * 60 + [first * 2])


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


def test_names_decide(tmp_path):
    values = IDS * np.uint8(15)
    with pytest.raises(UserError, match="fit no rule"):
        labels(write(tmp_path, [values]))
    equal(labels(write(tmp_path, [values]), names=[f"c{n}" for n in range(1, 46)])[1], [values])
    with pytest.raises(UserError, match=r"m0\.png holds the value 3, which is no class(.|\n)*nucleus, cell"):
        labels(write(tmp_path, [IDS]), names=("nucleus", "cell"))
    with pytest.raises(UserError, match=r"holds the value 255, which is no class(.|\n)*classes\.yaml"):
        labels(write(tmp_path, [MASK.astype(np.uint8) * np.uint8(255)]), "indexed")


def test_interpolated_and_negative_numbers_are_refused(tmp_path):
    for values in (IDS * np.float32(0.5) + np.float32(0.25) * MASK, np.where(MASK, -1, IDS.astype(np.float32))):
        for masks in ("auto", "indexed", "instances"):
            with pytest.raises(UserError, match=r"fit no rule|no whole numbers|negative"):
                labels(write(tmp_path, [values], "tif"), masks)
    values = np.where(MASK, -1, IDS.astype(np.int32))
    equal(labels(write(tmp_path, [values], "tif"), ignore=-1)[1], [np.where(MASK, IGNORED, IDS)])


# Numbers of objects ---------------------------------------------------------------------------------------------------


def numbered(count):
    values = np.zeros((30, 60), np.uint16)
    for number in range(1, count + 1):
        row, column = divmod(number - 1, 10)
        values[2 + 7 * row : 6 + 7 * row, 1 + 6 * column : 5 + 6 * column] = number
    return values


@pytest.mark.parametrize("counts", [(1, 2, 5), (3, 12, 7, 40), (40,)])
def test_numbered_objects_are_refused_unless_asked_for(tmp_path, counts):
    arrays = [numbered(count) for count in counts]
    paths = write(tmp_path, arrays)
    with pytest.raises(UserError, match=r"--data\.masks instances"):
        labels(paths)
    equal(labels(paths, "instances")[1], [array > 0 for array in arrays])
    rule, _ = decide(look_at(paths), "instances")
    for path, array in zip(paths, arrays, strict=True):
        found = as_instances(read_stored_mask(path), rule)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, array)


def test_objects_that_are_not_told_apart(tmp_path):
    """White, or the number 1 in several pieces; another number in one piece is an object."""
    ones = (numbered(3) > 0).astype(np.uint8)
    arrays = [ones, ones * np.uint8(255), numbered(1), numbered(4)]
    write_mask(tmp_path / "bits.png", MASK, "1")
    paths = [*write(tmp_path, arrays), tmp_path / "bits.png"]
    rule, faults = decide(look_at(paths), "instances")
    assert not faults
    found = [as_instances(read_stored_mask(path), rule) for path in paths]
    assert [each is None for each in found] == [True, True, False, False, True]
    values = numbered(4)
    values[29] = 99
    (path,) = write(tmp_path, [values])
    rule, _ = decide(look_at([path], 99), "instances", 99)
    assert set(np.unique(as_instances(read_stored_mask(path), rule))) == {0, 1, 2, 3, 4}
    assert (as_label(read_stored_mask(path), rule, path)[29] == IGNORED).all()


# Looking at the files -------------------------------------------------------------------------------------------------


def test_values_areas_and_counts_of_a_file(tmp_path):
    values = np.zeros((10, 12), np.uint8)
    values[1:5, 1:6], values[7, 7], values[0, 11] = 255, 3, 240
    (path,) = write(tmp_path, [values])
    levels = levels_of(path)
    assert (levels.form, levels.dtype, levels.values, levels.distinct) == ("levels", "uint8", (3.0, 240.0, 255.0), 3)
    assert levels.flat == ((255.0, 2 * 3),)
    assert (levels.bright, levels.dim, levels.whole, levels.pieces, levels.ignored) == (21, 1, True, 3, False)
    assert levels_of(path, ignore=240)._replace(pieces=3) == levels._replace(
        values=(3.0, 255.0), distinct=2, bright=20, ignored=True
    )
    for shape in ((1, 1), (2, 9), (9, 2), (3, 3)):
        (path,) = write(tmp_path, [np.ones(shape, np.uint8)])
        assert levels_of(path).flat == (((1.0, 1),) if shape == (3, 3) else ())


def test_volumes_are_looked_at_slice_by_slice(tmp_path):
    label = np.zeros((9, 20, 30), np.float32)
    label[7] = soft(1, "f4")[10:30, 10:40]
    path = tmp_path / "v.nii.gz"
    nibabel.save(nibabel.Nifti1Image(label.T, np.eye(4)), path)
    rule, faults = decide(look_at([path]))
    assert (rule.kind, dict(rule.halves), faults) == ("soft", {"float32": 0.5}, {})
    nibabel.save(nibabel.Nifti1Image(np.rint(label.T * 2), np.eye(4)), path)
    assert decide(look_at([path])).rule.classes == 2


def test_every_file_is_looked_at_once_until_it_changes(tmp_path, monkeypatch):
    paths = write(tmp_path, [IDS, MASK.astype(np.uint8), soft(255, "u1")])
    (tmp_path / "damaged.png").write_text("no image")
    seen = []
    real = mask_levels.levels_of
    monkeypatch.setattr(mask_levels, "levels_of", lambda path, *args: seen.append(path.name) or real(path, *args))
    wanted = [*paths, tmp_path / "damaged.png", tmp_path / "absent.png"]
    first = look_at(wanted)
    assert (list(first), sorted(seen)) == (paths, ["damaged.png", "m0.png", "m1.png", "m2.png"])
    seen.clear()
    assert look_at(wanted) == first
    assert seen == ["damaged.png"]
    seen.clear()
    assert look_at(paths, ignore=255) != first
    assert len(seen) == 3
    seen.clear()
    Image.fromarray(IDS * np.uint8(2)).save(paths[0])
    os.utime(paths[1], ns=(1, 1))
    assert look_at(paths)[paths[0]].values == (2.0, 4.0, 6.0)
    assert sorted(seen) == ["m0.png", "m1.png"]


def test_a_damaged_or_unwritable_cache_does_no_harm(tmp_path, monkeypatch):
    paths = write(tmp_path, [IDS])
    first = look_at(paths)
    (store,) = (tmp_path / "cache" / "masks").iterdir()
    for content in ("", "[]", '{"m0.png": [[1], 2]}', store.read_text().replace("levels", "levels', '")[:-9]):
        store.write_text(content)
        assert look_at(paths) == first
    monkeypatch.setenv("SAMSEG_CACHE", str(paths[0]))  # a file where the folder should be
    assert look_at(paths) == first


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
