"""Masks on disk for the tests of how they are read, looked at and understood."""

import numpy as np
from PIL import Image

from lightning_samseg.io.mask_levels import look_at
from lightning_samseg.io.mask_rules import decide
from lightning_samseg.io.masks import as_label, read_stored_mask

MASK = np.zeros((20, 30), bool)
MASK[4:12, 5:20] = True
IDS = np.zeros((20, 30), np.uint8)
IDS[2:8, 2:8], IDS[2:8, 12:18], IDS[12:18, 5:25] = 1, 2, 3


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
