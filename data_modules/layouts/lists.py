"""Lists of images, one a line, that divide a data set or order a stream: one reader and one writer for all of them."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from data_modules.layouts.base import Item, Splits
from lightning_samseg.errors import UserError
from lightning_samseg.io.images import IMAGE_SUFFIXES
from lightning_samseg.io.text import escape, nfc, read_text
from lightning_samseg.io.volumes import VOLUME_SUFFIXES

_ENDINGS = sorted((*IMAGE_SUFFIXES, *VOLUME_SUFFIXES), key=len, reverse=True)


def list_text(head: str, case_ids: Iterable[str]) -> str:
    """Give the text of a list, from which :func:`read_list` has the same ids back where it knows them.

    Args:
        head: What it is, for the comment on top.
        case_ids: One a line.
    """
    return f"# {head}\n" + "".join(f"{case_id}\n" for case_id in case_ids)


def read_list(path: Path, known: Mapping[str, str] | None = None) -> list[str]:
    """Read the case ids of a list: one a line, in UTF-8 or the bytes of the files' names.

    A line is read as the name that it is, if ``known`` has it; else ``#`` starts a comment (but not inside a word),
    blanks around the name do not count, and an image's ending is dropped.

    Args:
        path: The file.
        known: Case id of each spelling that names an image, see :func:`spellings`; None: names are not looked up.

    Returns:
        The case ids in order. A name that is not known comes as it is read.

    Raises:
        UserError: If the file is missing, is not text, names nothing, or names an image twice.
    """
    if not path.is_file():
        raise UserError(f"There is no list {path}.", fix="write it: one case id a line")
    lines: dict[str, int] = {}
    for number, line in enumerate(re.split(r"\r\n|\n|\r", read_text(path, names=True)), start=1):
        name = _named(nfc(line), known or {})
        if name in lines:
            raise UserError(
                f"{path} names {name} twice.",
                expected="each image once",
                found=f"it in lines {lines[name]} and {number}",
                fix="remove one of the lines",
            )
        if name:
            lines[name] = number
    if not lines:
        raise UserError(f"{path} names no image.", fix="write one case id a line")
    return list(lines)


def _named(line: str, known: Mapping[str, str]) -> str:
    """Case id that a line means; empty for a comment."""
    name = re.split(r"(?:^|\s)#", line)[0].strip()
    endings = (end for end in (*_ENDINGS, "") if name.lower().endswith(end))
    short = name[: len(name) - len(next(endings))]
    for reading in (line, line.strip(), name, short, name.replace("\\", "/")):
        for spelling in (escape(reading), reading):  # bytes that are no UTF-8 may be escaped in the list already
            if spelling in known:
                return known[spelling]
    return short if short.isprintable() else escape(short)


def spellings(items: Iterable[Item], root: Path) -> dict[str, str]:
    """Ways to name each image in a list: its case id, its file's name, its path, also as seen from the root.

    Args:
        items: The images.
        root: Folder of the data.

    Returns:
        Case id by spelling; a spelling that means several images only where it is a case id.
    """
    items = list({item.case_id: item for item in items}.values())
    owners: dict[str, set[str]] = {}
    for item in items:
        paths = {item.image, item.image.absolute()}
        paths |= {item.image.relative_to(root)} if item.image.is_relative_to(root) else set()
        for spelling in {item.image.name, *(path.as_posix() for path in paths)}:
            owners.setdefault(escape(nfc(spelling)), set()).add(item.case_id)
    unique = {spelling: min(ids) for spelling, ids in owners.items() if len(ids) == 1}
    return unique | {item.case_id: item.case_id for item in items}


def listed_splits(items: list[Item], lists: Path, root: Path, fix: str) -> Splits:
    """Divide items by list files ``train.txt``, ``val.txt``, ``test.txt`` and, where present, ``labelled.txt``.

    Each line names an image, see :func:`read_list`. The first lines of ``labelled.txt`` are the labelled images;
    without it, the order of ``train.txt`` decides.

    Args:
        items: All items that are there; those on no list are left out.
        lists: Folder of the list files.
        root: Folder of the data.
        fix: What to do where listed files are missing.

    Raises:
        UserError: If a list is missing or empty, names an absent image, or two lists name the same one.
    """
    known = spellings(items, root)
    names = {part: read_list(lists / f"{part}.txt", known) for part in ("train", "val", "test")}
    if (lists / "labelled.txt").is_file():
        first = read_list(lists / "labelled.txt", known)
        stray = sorted(set(first) - set(names["train"]))
        if stray:
            raise UserError(
                f"{lists / 'labelled.txt'} names {stray[0]}, which is not in train.txt.", fix="mend the list"
            )
        names["train"] = first + [name for name in names["train"] if name not in set(first)]

    where: dict[str, str] = {}
    for part, part_names in names.items():
        for name in part_names:
            if name in where:
                raise UserError(
                    f"{name} is listed twice, in {where[name]}.txt and {part}.txt of {lists}.",
                    fix="keep each image in one list",
                )
            where[name] = part

    present: dict[str, list[Item]] = {}
    for item in items:
        present.setdefault(item.case_id, []).append(item)
    missing = [name for name in where if name not in present]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(where)} images in the lists of {lists} are missing under {root}.",
            expected="the complete data set that the lists were made for; case ids such as "
            + ", ".join(list(present)[:2]),
            found=f"no {', no '.join(missing[:3])}{' and so on' if len(missing) > 3 else ''}",
            fix=fix,
        )
    return Splits(*([item for name in part_names for item in present[name]] for part_names in names.values()))
