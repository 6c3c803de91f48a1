"""Boxes and points that a user drew, from a CSV or a COCO file, in pixels of the images at their own size."""

import csv
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lightning_samseg.errors import UserError

PromptKind = Literal["box", "point"]
COLUMNS: dict[str, tuple[str, ...]] = {"box": ("x0", "y0", "x1", "y1"), "point": ("x", "y")}
"""Columns of a CSV file beside ``image``; boxes are half open, so that ``x1 - x0`` is the width."""


class PromptFile:
    """Prompts by image.

    * CSV: a header ``image,x0,y0,x1,y1`` for boxes or ``image,x,y`` for points (other columns are ignored), a row per
      prompt.
    * COCO (``.json``): for boxes the ``bbox`` of every annotation (x, y, width, height); for points the visible
      ``keypoints`` of every annotation, one prompt each.

    An image is named by its case id (with ``_012`` behind it for slice 12 of a volume), by its file name, or by that
    without its ending.

    Args:
        path: The file.
        kind: What to read from it.
        option: Where the user gave the file, for messages.

    Raises:
        UserError: If the file is missing, damaged or lacks what it should hold; the message names the row.
    """

    def __init__(self, path: str | Path, kind: PromptKind, option: str = "--model.prompt_file") -> None:
        self.path = Path(path).expanduser()
        self.kind = kind
        if not self.path.is_file():
            raise UserError(f"There is no prompt file {self.path}.", fix=f"check {option}")
        rows = _read_coco(self.path, kind) if self.path.suffix.lower() == ".json" else _read_csv(self.path, kind)
        self._prompts: dict[str, list[list[float]]] = {}
        for image, numbers in rows:
            self._prompts.setdefault(image, []).append(numbers)
        if not self._prompts:
            raise UserError(f"{self.path} holds no {kind}.", fix="write one row per prompt")
        self._of_image: dict[str, list[list[float]]] = {}

    def bind(
        self,
        images: Mapping[str, Iterable[str]],
        among: str = "of the stream",
        fix: str = "correct the name, remove its rows, or check data.stream_sets",
    ) -> int:
        """Find out which image each of the file's names means.

        Args:
            images: Key of each image, as :meth:`prompts` is asked for it, and the names it answers to.
            among: What the images are those of, for messages.
            fix: Way out for a wrong name.

        Returns:
            Number of images without a prompt.

        Raises:
            UserError: If a name of the file means no image, or several.
        """
        owners: dict[str, list[str]] = {}
        for key, names in images.items():
            for name in {key, *names}:
                owners.setdefault(name, []).append(key)
        for name, rows in self._prompts.items():
            found = [name] if name in images else owners.get(name, [])
            if len(found) != 1:
                several = f"means several images: {', '.join(found[:3])}" if found else f"is no image {among}"
                raise UserError(
                    f"{self.path}: {name!r} {several}.",
                    expected=f"case ids such as {next(iter(images), among)}, or file names where unique",
                    fix=fix,
                )
            self._of_image.setdefault(found[0], []).extend(rows)
        return len(images) - len(self._of_image)

    def prompts(self, key: str) -> NDArray[np.float64]:
        """Give the prompts of an image in the order of the file.

        Args:
            key: As given to :meth:`bind`.

        Returns:
            ``(m, 4)`` boxes or ``(m, 2)`` points; ``m`` may be 0.
        """
        return np.array(self._of_image.get(key, []), np.float64).reshape(-1, len(COLUMNS[self.kind]))


def _read_csv(path: Path, kind: PromptKind) -> list[tuple[str, list[float]]]:
    columns = ("image", *COLUMNS[kind])
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header, rows = reader.fieldnames or [], list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise _damaged(path, error) from error
    if missing := [column for column in columns if column not in header]:
        raise UserError(
            f"{path}: no column {missing[0]} for a {kind} prompt.",
            expected=f"a first line with {','.join(columns)}",
            found=",".join(header) or "an empty file",
            fix="add the column, or set --model.prompt to what the file holds",
        )
    return [
        (row["image"], _numbers([row[column] for column in columns[1:]], f"{path}, line {number}"))
        for number, row in enumerate(rows, start=2)
    ]


def _read_coco(path: Path, kind: PromptKind) -> list[tuple[str, list[float]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        annotations = [dict(annotation) for annotation in content["annotations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    rows = []
    for number, annotation in enumerate(annotations):
        where = f"{path}, annotation {number}"
        image = names.get(annotation.get("image_id"))
        if image is None:
            raise UserError(f"{where}: there is no image of its image_id.", fix="mend the file")
        if kind == "box":
            box = _numbers(annotation.get("bbox"), where)
            if len(box) != 4:
                raise UserError(f"{where}: not a box.", expected="x, y, width, height", found=str(box), fix="mend it")
            rows.append((image, [box[0], box[1], box[0] + box[2], box[1] + box[3]]))
            continue
        keypoints = annotation.get("keypoints") or []
        for x, y, visible in zip(keypoints[::3], keypoints[1::3], keypoints[2::3], strict=False):
            if visible:
                rows.append((image, _numbers([x, y], where)))
    return rows


def _numbers(values: Any, where: str) -> list[float]:
    try:
        numbers = [float(value) for value in values]
    except (TypeError, ValueError):
        numbers = [math.nan]
    if not all(math.isfinite(number) for number in numbers):
        raise UserError(
            f"{where}: not a prompt.", expected="finite numbers in pixels", found=str(values), fix="mend it"
        )
    return numbers


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} cannot be read as prompts.",
        expected="CSV with a header line, or COCO's JSON with images and annotations",
        found=f"{type(error).__name__}: {error}"[:200],
        fix="export the file again",
    )
