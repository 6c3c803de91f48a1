"""GlaS, glands in colon histology (Sirinukunwattana et al., Medical Image Analysis 2017), as released by Warwick.

``train_N.bmp``, ``testA_N.bmp``, ``testB_N.bmp`` with ``*_anno.bmp`` that number the glands, and ``Grade.csv``.
``python -m data_modules.layouts.glas`` writes the committed lists again.
"""

import csv
import re
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from data_modules.layouts.base import (
    Item,
    Layout,
    Splits,
    check_root,
    natural_key,
    random_splits,
    shuffled,
)
from data_modules.layouts.lists import list_text
from lightning_samseg.errors import UserError
from lightning_samseg.io.text import write_text

LISTS = Path(__file__).parents[1] / "splits" / "glas"
RELEASED = {"train": 85, "testA": 60, "testB": 20}
LIST_SEED = 2024
GRADES = ("benign", "malignant")
_PATTERN = re.compile(r"(?P<case>(?P<part>train|testA|testB)_\d+)(?P<anno>_anno)?\.(bmp|png|tiff?)", re.ASCII | re.I)
_NAME, _PATIENT, _GRADE = "name", "patient id", "grade (glas)"


class _Slide(NamedTuple):
    grade: str
    patient: str


class GlasLayout(Layout):
    """GlaS's files and splits; the arguments are those of ``GlasDataModule``."""

    name = "GlaS"
    class_names = ("gland",)
    masks = "instances"

    def __init__(
        self,
        root: str,
        grade: Literal["all", "benign", "malignant"] = "all",
        split: Literal["official", "random"] = "official",
        split_seed: int = 0,
    ) -> None:
        self.root, self.grade, self.split, self.split_seed = root, grade, split, split_seed

    def splits(self) -> Splits:
        """List the images and divide them by their names, 10 % of the training images validated; or 70/10/20.

        Which training images are validated, and the order in which the others are labelled, follow from their names.

        Raises:
            UserError: See ``items``; also if a part would be empty.
        """
        items = self.items()
        if self.split == "random":
            return random_splits(items, self.split_seed)
        named = {item.case_id: item for item in items}
        train, val = divide_names([name for name in named if name.startswith("train")])
        test = [item for item in items if item.case_id.startswith("test")]
        if not (train and val and test):
            raise UserError(
                f"GlaS's official parts need more images than there are in {self.folder}.",
                expected="at least 5 train_N and one testA_N or testB_N",
                found=f"{len(train) + len(val)} and {len(test)} images" + self._of_grade,
                fix="use --data.split random",
            )
        return Splits([named[name] for name in train], [named[name] for name in val], test)

    def items(self) -> list[Item]:
        """List the images with their annotations, training first, in natural order; the grade is the category.

        Raises:
            UserError: If the folder is missing or holds no image of GlaS, an image has no annotation, or Grade.csv is
                malformed, lacks an image, or is missing and asked for.
        """
        images, annotations = self._files()
        if self.grade != "all" and not self.grades:
            raise UserError(
                f"There is no Grade.csv in {self.folder}, so the {self.grade} images are not known.",
                fix="copy Grade.csv from the release beside the images, or set --data.grade all",
            )
        items = []
        for case_id, image in images.items():
            annotation = annotations.pop(case_id, None)
            if annotation is None:
                self.complain(
                    UserError(
                        f"{image} has no annotation.",
                        expected=f"{case_id}_anno.bmp (or .png, .tif)",
                        fix="copy it from the release, or remove the image",
                    )
                )
                continue
            slide = self._slide(case_id)
            if self.grade in ("all", slide.grade):
                items.append(Item(case_id, image, (annotation,), slide.grade, slide.patient))
        for path in annotations.values():
            self.complain(UserError(f"{path} has no image.", fix="remove it, or add its image"), harmless=True)
        if not items:
            raise UserError(
                f"No images of GlaS found in {self.folder}{self._of_grade}.",
                expected="files such as train_1.bmp and train_1_anno.bmp",
                fix="point --data.root at 'Warwick QU Dataset (Released 2016_07_08)', or at the folder that holds it",
            )
        return items

    def notes(self) -> list[str]:
        """Say what is unknown where Grade.csv is missing."""
        if self.grades:
            return []
        return ["no Grade.csv: grades and patients are unknown, and online learning has one set, GlaS"]

    @cached_property
    def folder(self) -> Path:
        """The folder that holds the images: the root, or the first one inside that has any."""
        root = check_root(self.root, self.name)
        inside = sorted(path for path in root.iterdir() if path.is_dir())
        return next((path for path in (root, *inside) if any(_PATTERN.fullmatch(p.name) for p in path.iterdir())), root)

    @cached_property
    def grades(self) -> dict[str, _Slide]:
        """Grade and patient of each image; empty where there is no Grade.csv.

        Raises:
            UserError: If it is malformed.
        """
        file = self.folder / "Grade.csv"
        return _read_grades(file) if file.is_file() else {}

    @property
    def _of_grade(self) -> str:
        return "" if self.grade == "all" else f", grade {self.grade}"

    def _slide(self, case_id: str) -> _Slide:
        if not self.grades:
            return _Slide("", "")
        if case_id not in self.grades:
            error = UserError(
                f"{self.folder / 'Grade.csv'} has no line for {case_id}.", fix="copy it again from the release"
            )
            self.complain(error)
        return self.grades.get(case_id, _Slide("", ""))

    def _files(self) -> tuple[dict[str, Path], dict[str, Path]]:
        files: tuple[dict[str, Path], dict[str, Path]] = {}, {}
        for path in sorted(self.folder.iterdir(), key=lambda path: natural_key(path.name)):
            match = _PATTERN.fullmatch(path.name)
            if match is None:
                continue
            side = files[1 if match["anno"] else 0]
            if match["case"] in side:
                same = side[match["case"]].name
                self.complain(UserError(f"{path} and {same} are the same image.", fix="remove one of them"))
            side[match["case"]] = path
        in_order = sorted(files[0].items(), key=lambda item: not item[0].startswith("train"))
        return dict(in_order), files[1]


def divide_names(names: list[str]) -> tuple[list[str], list[str]]:
    """Divide training names by their hashes: all but 10 %, in the order in which they are labelled, and the 10 %."""
    order = shuffled(names, LIST_SEED)
    num_val = round(len(order) / 10)
    return order[num_val:], sorted(order[:num_val], key=natural_key)


def make_lists() -> dict[str, list[str]]:
    """Case ids of the official parts of the release: train (77), val (8), test (80) and labelled, an order of train."""
    numbered = {part: [f"{part}_{number}" for number in range(1, count + 1)] for part, count in RELEASED.items()}
    labelled, val = divide_names(numbered["train"])
    train = sorted(labelled, key=natural_key)
    return {"train": train, "val": val, "test": numbered["testA"] + numbered["testB"], "labelled": labelled}


def format_list(name: str, case_ids: list[str]) -> str:
    """Give the text of a committed list, with its provenance on top."""
    meaning = "training images in the order in which they are labelled" if name == "labelled" else f"{name} images"
    head = f"GlaS, {len(case_ids)} {meaning}; made by python -m data_modules.layouts.glas, seed {LIST_SEED}"
    return list_text(head, case_ids)


def _read_grades(file: Path) -> dict[str, _Slide]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            table = [[cell.strip() for cell in row] for row in csv.reader(lines) if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise _malformed(file, str(error)) from error
    head = [cell.lower() for cell in table[0]] if table else []
    if not {_NAME, _PATIENT, _GRADE} <= set(head):
        raise _malformed(file, ", ".join(head) or "an empty file")
    columns = [head.index(name) for name in (_NAME, _GRADE, _PATIENT)]
    grades = {}
    for row in table[1:]:
        if len(row) <= max(columns) or row[columns[1]].lower() not in GRADES:
            raise _malformed(file, f"the line {', '.join(row)}")
        name, grade, patient = (row[column] for column in columns)
        grades[Path(name).stem] = _Slide(grade.lower(), f"patient {patient}")
    return grades


def _malformed(file: Path, found: str) -> UserError:
    return UserError(
        f"{file} is not GlaS's table of grades.",
        expected="columns name, patient ID, grade (GlaS), and grades benign or malignant",
        found=found,
        fix="copy it again from the release",
    )


if __name__ == "__main__":
    for list_name, list_cases in make_lists().items():
        write_text(LISTS / f"{list_name}.txt", format_list(list_name, list_cases))
