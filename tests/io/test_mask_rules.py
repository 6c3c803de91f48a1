"""What mask files mean: one rule for all masks of a data set, from the values of all of them."""

import numpy as np
import pytest

from lightning_samseg.errors import UserError
from lightning_samseg.io.mask_levels import look_at
from lightning_samseg.io.mask_rules import decide, describe
from lightning_samseg.io.masks import as_instances, as_label, read_stored_mask
from lightning_samseg.types import IGNORED
from tests.fakes import write_mask
from tests.io.mask_files import IDS, MASK, equal, labels, palette, soft, write

pytestmark = pytest.mark.usefixtures("own_cache")


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


def test_a_class_that_comes_late_counts(tmp_path):
    first = MASK.astype(np.uint8)
    paths = write(tmp_path, [first] * 60 + [first * np.uint8(2)])
    kind, found = labels(paths)
    assert kind == "indexed"
    equal(found, [first] * 60 + [first * 2])


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
