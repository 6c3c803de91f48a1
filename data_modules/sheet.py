"""A contact sheet: images of a data set side by side with the contours of their labels (``data show``). No torch."""

from collections.abc import Iterator

import cv2
import numpy as np

from data_modules.layouts.base import Item, Layout
from lightning_samseg.errors import UserError
from lightning_samseg.io.images import to_rgb_uint8
from lightning_samseg.types import IGNORED

COLOURS = ((0, 230, 118), (255, 179, 0), (64, 156, 255), (255, 82, 190), (170, 110, 255), (255, 92, 64))
"""Contour colours of the classes 1, 2 and so on, then again; objects that are told apart take turns."""
GREY = (150, 150, 150)
"""Contour colour of what is ignored."""
_BORDER, _CAPTION = 4, 18


def contact_sheet(layout: Layout, items: list[Item], columns: int = 6, tile: int = 240) -> np.ndarray:
    """Draw images with contours: a colour for each class, or for each object where the data set tells them apart.

    Args:
        layout: Reads pixels and labels.
        items: What to draw.
        columns: Pictures in a row.
        tile: Side of the square that each picture is fitted into, in pixels.

    Returns:
        uint8 ``(H, W, 3)``.

    Raises:
        UserError: If a file cannot be read.
    """
    rows = -(-len(items) // columns)
    columns = min(columns, len(items))
    step = (tile + _CAPTION + _BORDER, tile + _BORDER)
    sheet = np.full((rows * step[0] + _BORDER, columns * step[1] + _BORDER, 3), 24, np.uint8)
    for number, item in enumerate(items):
        top, left = (_BORDER + place * size for place, size in zip(divmod(number, columns), step, strict=True))
        picture = _drawn(layout, item, tile)
        height, width = picture.shape[:2]
        sheet[top + tile - height : top + tile, left : left + width] = picture
        slice_mark = f" {item.slice_index + 1}/{item.num_slices}" if item.num_slices > 1 else ""
        caption = _shortened(f"{item.case_id}{slice_mark}", tile)
        place = (left, top + tile + _CAPTION - 5)
        cv2.putText(sheet, caption, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (230, 230, 230), 1, cv2.LINE_AA)
    return sheet


def choose(layout: Layout, count: int) -> list[Item]:
    """Pick images evenly over the data set; of volumes, slices with foreground where there are any nearby.

    Raises:
        UserError: If there is no image, or a file cannot be read.
    """
    items = layout.items()
    if not items or count < 1:
        found = f"{len(items)} images, {count} wanted"
        raise UserError(f"There is nothing of {layout.name} to show.", found=found, fix="check both numbers")
    places = np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int).tolist()
    if not layout.sliced:
        return [items[place] for place in places]
    chosen: dict[Item, None] = {}
    for place in places:
        around = (items[near] for near in _nearby(place, len(items), reach=12))
        shown = next((item for item in around if item not in chosen and _shows(layout, item)), items[place])
        chosen[shown] = None
    return list(chosen)


def _nearby(place: int, count: int, reach: int) -> Iterator[int]:
    for offset in range(reach):
        yield from (near for near in dict.fromkeys((place - offset, place + offset)) if 0 <= near < count)


def _shows(layout: Layout, item: Item) -> bool:
    image = layout.read_image(item)
    label = layout.read_label(item, (image.shape[0], image.shape[1]))
    return bool(((label > 0) & (label != IGNORED)).any())


def _drawn(layout: Layout, item: Item, tile: int) -> np.ndarray:
    image = to_rgb_uint8(layout.read_image(item))
    size = (image.shape[0], image.shape[1])
    label = layout.read_label(item, size)
    instances = layout.read_instances(item, size) if len(layout.class_names) == 1 else None
    regions = label if instances is None else np.where(label == IGNORED, -1, instances)
    scale = tile / max(size)
    target = (max(1, round(size[1] * scale)), max(1, round(size[0] * scale)))
    picture = cv2.resize(image, target, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    for value in np.unique(regions[regions != 0]):
        region = cv2.resize((regions == value).astype(np.uint8), target, interpolation=cv2.INTER_NEAREST_EXACT)
        contours, _ = cv2.findContours(region, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        ignored = value == (IGNORED if instances is None else -1)
        cv2.drawContours(picture, contours, -1, GREY if ignored else COLOURS[(int(value) - 1) % len(COLOURS)], 1)
    return np.asarray(picture)


def _shortened(text: str, width: int) -> str:
    most = width // 7  # a letter of this size is about 7 pixels wide
    return text if len(text) <= most else f"{text[: most - 2]}.."
