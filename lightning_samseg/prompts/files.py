"""Boxes and points that a user drew, from a CSV or a COCO file, in pixels of the images at their own size."""

import json
import math
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_samseg.errors import MissingFileError, UserError
from lightning_samseg.io.tables import read_table
from lightning_samseg.io.text import escape, nfc, read_text
from lightning_samseg.log import logger
from lightning_samseg.prompts.boxes import check_points
from lightning_samseg.types import PromptKind

COLUMNS: dict[str, tuple[str, ...]] = {"box": ("x0", "y0", "x1", "y1"), "point": ("x", "y")}
"""Columns of a CSV file beside ``image``; boxes are half open, so that ``x1 - x0`` is the width."""
_PLURAL = {"box": "boxes", "point": "points"}


class Prompt(NamedTuple):
    """One box or point."""

    where: str
    """Where it stands: the file, and the line or the annotation."""
    image: str
    """Name of its image."""
    place: tuple[float, ...]
    """Numbers in the order of ``COLUMNS``."""


class PromptFile:
    """Prompts by image.

    * CSV: a header ``image,x0,y0,x1,y1`` for boxes or ``image,x,y`` for points (other columns are ignored), a row per
      prompt; separated by comma, semicolon or tab.
    * COCO (JSON): for boxes the ``bbox`` of every annotation (x, y, width, height); for points the visible
      ``keypoints`` of every annotation, one prompt each.

    An image is named by its case id (with ``_012`` behind it for slice 12 of a volume), by its file name, or by that
    without its ending.

    Args:
        path: The file.
        kind: What to read from it.
        option: Where the user gave the file, for messages.
        kind_option: Where the user says what to read from it; None where a checkpoint says so.

    Raises:
        UserError: If the file is missing, damaged or lacks what it should hold; the message names the line.
    """

    def __init__(
        self,
        path: str | Path,
        kind: PromptKind,
        option: str = "--model.prompter.file",
        kind_option: str | None = "--model.prompter.kind",
    ) -> None:
        self.path = Path(path).expanduser()
        self.kind = kind
        if not self.path.is_file():
            raise MissingFileError(f"There is no prompt file {self.path}.", fix=f"check {option}")
        other = "point" if kind == "box" else "box"
        self._other = (
            f"set {kind_option} {other} if the file holds {_PLURAL[other]}"
            if kind_option
            else f"give {_PLURAL[kind]}, by which the run of this checkpoint was prompted"
        )
        self._sizes: dict[str, tuple[int, int]] = {}
        self._prompts: dict[str, list[Prompt]] = {}
        first: dict[tuple[Any, ...], Prompt] = {}
        is_json = read_text(self.path, names=True).lstrip()[:1] in ("{", "[")
        for prompt in self._of_coco() if is_json else self._of_csv():
            twin = first.setdefault((prompt.image, prompt.place), prompt)
            if twin is not prompt:
                raise UserError(f"{prompt.where}: the same {kind} as {twin.where}.", fix="remove one of them")
            self._prompts.setdefault(prompt.image, []).append(prompt)
        self._refuse_fractions()
        if not self._prompts:
            raise UserError(f"{self.path} holds no {kind}.", fix=f"write one row per prompt, or {self._other}")
        self._of_image: dict[str, list[Prompt]] = {}
        self._told = False

    def bind(
        self,
        images: Mapping[str, Iterable[str]],
        among: str = "of the stream",
        fix: str = "correct the name, remove its rows, or check data.stream_sets",
    ) -> int:
        """Find out which image each of the file's names means.

        Where all names begin with a folder that the images are not in, it is left out, and a line says so.

        Args:
            images: Key of each image, as :meth:`prompts` is asked for it, and the names it answers to.
            among: What the images are those of, for messages.
            fix: What to do for a wrong name.

        Returns:
            Number of images without a prompt.

        Raises:
            UserError: If a name of the file means no image, or several.
        """
        exact = {escape(nfc(key)): key for key in images}
        owners: dict[str, set[str]] = {}
        for key, names in images.items():
            for name in names:
                owners.setdefault(escape(nfc(name)), set()).add(key)

        def found(name: str) -> set[str]:
            return {exact[name]} if name in exact else owners.get(name, set())

        folder = _common_folder(self._prompts)
        short = {name: posixpath.relpath(name, folder) if folder else name for name in self._prompts}
        if not any(map(found, self._prompts)) and all(len(found(name)) == 1 for name in short.values()):
            logger.info(f"note: {self.path}: its images are looked for without the folder {folder}")
        else:
            short = {name: name for name in self._prompts}
        for name, prompts in self._prompts.items():
            keys = found(short[name])
            if len(keys) != 1:
                several = f"means several images: {', '.join(sorted(keys)[:3])}" if keys else f"is no image {among}"
                raise UserError(
                    f"{prompts[0].where}: {name!r} {several}.",
                    expected=f"case ids such as {next(iter(images), among)}, or file names where unique",
                    fix=fix,
                )
            self._of_image.setdefault(min(keys), []).extend(prompts)
        return len(images) - len(self._of_image)

    def prompts(self, key: str, size: tuple[int, int]) -> NDArray[np.float64]:
        """Give the prompts of an image in the order of the file.

        Args:
            key: As given to :meth:`bind`.
            size: ``(H, W)`` of the image in pixels.

        Returns:
            ``(m, 4)`` boxes or ``(m, 2)`` points; ``m`` may be 0. A box may reach over the border; a line says so once.

        Raises:
            UserError: If one shares no pixel with the image, or the file says that the image has another size.
        """
        height, width = size
        prompts = self._of_image.get(key, [])
        for prompt in prompts:
            stated = self._sizes.get(prompt.image, size)
            if stated != size:
                raise UserError(
                    f"{prompt.where}: drawn on a picture of another size than {prompt.image}.",
                    expected=f"{width} x {height} pixels (width x height), as the image",
                    found=f"{stated[1]} x {stated[0]}",
                    fix="scale the prompts to the image, or take the picture that they were drawn on",
                )
            self._check_inside(prompt, height, width)
        places = [prompt.place for prompt in prompts]
        return np.array(places, np.float64).reshape(-1, len(COLUMNS[self.kind]))

    def _refuse_fractions(self) -> None:
        """Refuse numbers that are all fractions of an image, as those of YOLO: they would be its first pixel."""
        numbers = [number for prompts in self._prompts.values() for prompt in prompts for number in prompt.place]
        if any(number % 1 for number in numbers) and all(0 <= number <= 1 for number in numbers):
            raise UserError(
                f"{self.path} gives no pixels.",
                expected="pixels of each image at its own size",
                found=f"{len(numbers)} numbers from {min(numbers):g} to {max(numbers):g}, as if of an image's sides",
                fix="multiply x by the image's width and y by its height",
            )

    def _check_inside(self, prompt: Prompt, height: int, width: int) -> None:
        if self.kind == "point":
            check_points(np.array([prompt.place]), (height, width), f"{prompt.where}, {prompt.image}")
            return
        x0, y0, x1, y1 = prompt.place
        if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
            raise UserError(
                f"{prompt.where}: the box lies outside the image {prompt.image}.",
                expected=f"pixels of the image at its own size, x in 0..{width}, y in 0..{height}",
                found=", ".join(f"{value:g}" for value in prompt.place),
                fix="correct it; where an annotation tool has shown the image smaller or larger, scale it",
            )
        if min(x0, y0, width - x1, height - y1) < -1 and not self._told:
            self._told = True
            logger.info(
                f"note: {prompt.where}: the box reaches over the border of {prompt.image} ({width} x {height} pixels) "
                "and is cut there, as all others that do"
            )

    def _of_csv(self) -> Iterator[Prompt]:
        columns = COLUMNS[self.kind]
        fix = f"add the first line, or {self._other}"
        for row in read_table(self.path, ("image", *columns), fix=fix):
            where = f"{self.path}, line {row.line}"
            if not row.cells["image"]:
                raise UserError(f"{where}: no image is named.", fix="write the image's name into the first column")
            place = _numbers([row.cells[column] for column in columns], where, self.kind)
            yield self._checked(Prompt(where, _named(row.cells["image"]), place))

    def _of_coco(self) -> Iterator[Prompt]:
        images, annotations = _read_coco(self.path)
        names = {key: _named(str(image["file_name"])) for key, image in images.items()}
        for key, image in images.items():
            height, width = image.get("height"), image.get("width")
            if isinstance(height, int) and isinstance(width, int) and height > 0 < width:
                self._sizes[names[key]] = height, width
        for number, annotation in enumerate(annotations):
            where = f"{self.path}, annotation {number}"
            name = names.get(str(annotation.get("image_id")))
            if name is None:
                raise UserError(
                    f"{where}: there is no image of its image_id.",
                    found=str(annotation.get("image_id")),
                    fix="export the file again with its images",
                )
            if self.kind == "box":
                box = _numbers(annotation.get("bbox"), where, "box")
                if len(box) != 4:
                    raise UserError(
                        f"{where}: not a box.", expected="x, y, width, height", found=str(box), fix="mend it"
                    )
                place = (box[0], box[1], box[0] + box[2], box[1] + box[3])
                yield self._checked(Prompt(where, name, place))
                continue
            points = _numbers(annotation.get("keypoints") or [], where, "point")
            if len(points) % 3:
                found = f"{len(points)} numbers"
                raise UserError(f"{where}: no keypoints.", expected="x, y, visible of each", found=found, fix="mend it")
            for x, y, visible in zip(points[::3], points[1::3], points[2::3], strict=True):
                if visible:
                    yield Prompt(where, name, (x, y))

    def _checked(self, prompt: Prompt) -> Prompt:
        place = prompt.place
        if self.kind == "box" and not (place[0] < place[2] and place[1] < place[3]):
            raise UserError(
                f"{prompt.where}: not a box.",
                expected="x0 < x1 and y0 < y1, in pixels",
                found=", ".join(f"{value:g}" for value in place),
                fix="correct it; x, y, width, height have to be converted first",
            )
        return prompt


def _read_coco(path: Path) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Images by id, and annotations."""
    try:
        content = json.loads(read_text(path))
        images = {str(image["id"]): dict(image) for image in content["images"] if str(image["file_name"])}
        return images, [dict(annotation) for annotation in content["annotations"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as prompts.",
            expected="COCO's JSON with images and annotations, or CSV with a header line",
            found=f"{type(error).__name__}: {error}"[:200],
            fix="export the file again",
        ) from error


def _numbers(values: Any, where: str, kind: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        numbers = (math.nan,)
    if not all(math.isfinite(number) for number in numbers):
        found = ",".join(map(str, values)) if isinstance(values, list) else str(values)
        expected = "finite numbers in pixels, with a decimal point"
        raise UserError(f"{where}: not a {kind}.", expected=expected, found=found, fix="mend it")
    return numbers


def _common_folder(names: Iterable[str]) -> str:
    """The folder that all names begin with; empty where there is none."""
    folders = {posixpath.dirname(name) for name in names}
    alike = len({folder.startswith("/") for folder in folders}) == 1
    return posixpath.commonpath(folders) if alike else ""


def _named(text: str) -> str:
    """Name of an image as it is compared: with slashes, without ``./``; bytes that are no UTF-8 may be escaped."""
    name = nfc(text) if text.isprintable() else escape(nfc(text))
    return re.sub(r"\\(?!x[0-9a-f]{2})", "/", name).removeprefix("./")
