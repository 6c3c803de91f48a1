"""Reading everything of a data set and saying, file by file, what is wrong (``data verify``). Does not need torch."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, TypeVar

from tqdm import tqdm

from data_modules.layouts.base import Item, Layout, Splits, check_known
from lightning_samseg.errors import UserError
from lightning_samseg.types import IGNORED

T = TypeVar("T")


class Report(NamedTuple):
    """What was found."""

    images: int
    """Images and slices that were read."""
    problems: list[str]
    """One message each, with the file's name."""
    notes: list[str]
    """What is no fault, but good to know."""


def verify(layout: Layout, splits: Callable[[], Splits] | None = None) -> Report:
    """Read all images and labels of a data set.

    Reported are: missing partners; files that cannot be read; sizes that do not fit; masks whose values fit no rule, or
    not that of the others; labels that are empty, full, or against their category; blank images; lists that do not fit
    the files; the same picture in two parts of the split.

    Args:
        layout: The data set.
        splits: How it is divided; None: as the layout says.

    Returns:
        What is wrong; listing goes on after a problem as far as it can.
    """
    problems: list[UserError] = []
    layout.problems = problems
    parts = _collected(splits or layout.splits, problems)
    items = _collected(layout.items, problems) or []
    notes = _collected(lambda: layout.check_masks(items), problems) or []
    pictures: dict[bytes, list[Item]] = {}
    labelled: dict[str, bool] = {}
    bad: set[Path] = set()
    for item in tqdm(items, desc=f"reading {layout.name}", unit="image", disable=None):
        if item.image in bad:
            continue  # one message for a volume is enough
        try:
            picture, foreground = _read(layout, item)
        except UserError as error:
            problems.append(error)
            bad.add(item.image)
            continue
        unit = (item.group or item.case_id) if layout.sliced else item.case_id
        labelled[unit] = labelled.get(unit, False) or foreground
        if picture is not None:
            pictures.setdefault(picture, []).append(item)
    if layout.sliced:
        problems += [
            _empty(unit, "no slice of it has any label") for unit, any_label in labelled.items() if not any_label
        ]
    problems += _repeated(pictures, parts)
    messages = list(dict.fromkeys(map(str, problems)))
    return Report(len(items), messages, [*notes, *(_collected(layout.notes, []) or [])])


def _collected(action: Callable[[], T], problems: list[UserError]) -> T | None:
    try:
        return action()
    except UserError as error:
        problems.append(error)
        return None


def _read(layout: Layout, item: Item) -> tuple[bytes | None, bool]:
    """Hash of the picture (None if it is blank), and whether its label has any foreground."""
    image = layout.read_image(item)
    label = layout.read_label(item, (image.shape[0], image.shape[1]))
    layout.read_instances(item, (image.shape[0], image.shape[1]))
    check_known(label, layout, item)
    blank = bool(image.min() == image.max())
    known = label[label != IGNORED]
    foreground = bool(known.any())
    if not layout.sliced:
        if blank:
            raise UserError(f"{item.image}: the image is blank.", found=f"{image.flat[0]} everywhere", fix=_LOOK)
        file = ", ".join(str(path) for path in item.masks) or str(item.image)
        if foreground == (item.category in layout.without_foreground):
            if foreground:
                raise UserError(f"{file}: the mask is not empty, but the image is {item.category}.", fix=_LOOK)
            raise _empty(file, "no foreground")
        if known.all():
            raise UserError(f"{file}: the mask covers the whole image.", fix=_LOOK)
    return None if blank else sha256(f"{image.shape} {image.dtype}".encode() + image.tobytes()).digest(), foreground


_LOOK = "look at it, and export it again or remove it"


def _empty(name: str, found: str) -> UserError:
    return UserError(f"{name}: the label is empty.", expected="some foreground", found=found, fix=_LOOK)


def _repeated(pictures: dict[bytes, list[Item]], parts: Splits | None) -> list[UserError]:
    where: dict[tuple[Path, int], str] = {}
    for name, part in zip(("training", "validation", "test"), parts[:3] if parts else (), strict=False):
        where |= {(item.image, item.slice_index): name for item in part}
    problems = []
    for same in pictures.values():
        placed = {where[key]: item for item in same if (key := (item.image, item.slice_index)) in where}
        if len(placed) > 1:
            found = ", ".join(f"{item.image} ({part})" for part, item in placed.items())
            fix = "remove one of them, or keep them on one side by lists or by group"
            problems.append(UserError(f"{same[0].image}: the same picture is in two parts.", found=found, fix=fix))
    return problems
