"""Your own images: ``root/{images,masks}``, optionally ``unlabelled``, ``splits/*.txt`` and ``classes.yaml``."""

import re
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from data_modules.layouts.base import (
    Item,
    Layout,
    Splits,
    check_root,
    check_size,
    list_images,
    listed_splits,
    random_splits,
)
from lightning_samseg.errors import UserError
from lightning_samseg.io.images import read_indexed_mask

_LOOK_AT = 50  # masks that are opened to tell binary from indexed
_MOST_CLASSES = 31  # a larger value in a mask is a grey level, not a class id


class FolderLayout(Layout):
    """A folder of images with masks of the same name; the arguments are those of ``FolderDataModule``."""

    name = "folder"

    def __init__(
        self,
        root: str,
        masks: Literal["auto", "binary", "indexed"] = "auto",
        group: str | None = None,
        split: Literal["auto", "lists", "random"] = "auto",
        split_seed: int = 0,
    ) -> None:
        self.root, self.masks, self.split, self.split_seed = Path(root).expanduser(), masks, split, split_seed
        try:
            self.group = None if group is None else re.compile(group)
        except re.error as error:
            raise UserError(
                f"data.group is not a regular expression: {error}.",
                found=group,
                fix="for instance --data.group '^[^_]+'",
            ) from error

    @cached_property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Foreground classes: from ``classes.yaml``, else "foreground" or "class 1".."class C" by the masks' values.

        Raises:
            UserError: If ``classes.yaml`` is malformed, or it is needed and the data are missing.
        """
        file = self.root / "classes.yaml"
        if file.is_file():
            return _read_classes(file)
        if self.masks == "binary":
            return ("foreground",)
        paths = [path for item in self.items()[:_LOOK_AT] for path in item.masks]
        highest = max(map(_highest_value, paths))
        if self.masks == "auto" and not 1 < highest <= _MOST_CLASSES:
            return ("foreground",)
        return tuple(f"class {number}" for number in range(1, max(1, highest) + 1))

    @property
    def indexed(self) -> bool:
        """Whether mask values are class ids; otherwise ``read_mask`` tells the foreground of a single class."""
        return self.masks == "indexed" or (self.masks == "auto" and len(self.class_names) > 1)

    def splits(self) -> Splits:
        """List the images and divide them by ``splits/{train,val,test}.txt``, or 70/10/20 by group.

        Raises:
            UserError: If files are missing, do not pair, or a list does not fit them.
        """
        items = self.items()
        lists = self.root / "splits"
        if self.split == "lists" or (self.split == "auto" and lists.is_dir()):
            splits = listed_splits(items, lists, self.root, "mend the lists, or use --data.split random")
        else:
            splits = random_splits(items, self.split_seed)
        extra = self.root / "unlabelled"
        unlabelled = [Item(path.stem, path) for path in list_images(extra)] if extra.is_dir() else []
        return splits._replace(unlabelled=unlabelled)

    def items(self) -> list[Item]:
        """Pair images with masks by name (endings may differ), in natural order.

        Raises:
            UserError: If a folder is missing or empty, names are ambiguous, an image has no mask, or ``group`` does not
                match.
        """
        check_root(self.root, "your images")
        images = self._by_stem("images")
        masks = self._by_stem("masks")
        items = []
        for stem, image in images.items():
            mask = masks.pop(stem, None)
            if mask is None:
                error = UserError(
                    f"{image} has no mask.",
                    expected=f"a mask named {stem} in {self.root / 'masks'}",
                    fix=f"add it, or move the image to {self.root / 'unlabelled'}",
                )
                self.complain(error)
                continue
            items.append(Item(stem, image, (mask,), group=self._group_of(stem)))
        for path in masks.values():
            self.complain(UserError(f"{path} has no image.", fix="remove it, or add its image"), harmless=True)
        return items

    def binary_masks(self, item: Item) -> tuple[Path, ...]:
        """The masks, unless their values are class ids."""
        return () if self.indexed else item.masks

    def read_label(self, item: Item, size: tuple[int, int]) -> np.ndarray:
        """Read binary masks as class 1 and indexed ones as they are; uint8 ``(H, W)``.

        Raises:
            UserError: If the mask has another size than the image or a value that is no class.
        """
        if not self.indexed:
            return super().read_label(item, size)
        path = item.masks[0]
        label = read_indexed_mask(path)
        check_size(label, size, path, item.image)
        highest = int(label.max(initial=0))
        if highest > len(self.class_names):
            raise UserError(
                f"{path} holds the value {highest}, which is no class.",
                expected=f"0 for background and 1..{len(self.class_names)} for {', '.join(self.class_names)}",
                found=f"values up to {highest}",
                fix=f"name all classes in {self.root / 'classes.yaml'}, or set --data.masks binary",
            )
        return label

    def _by_stem(self, name: str) -> dict[str, Path]:
        folder = self.root / name
        paths = list_images(folder) if folder.is_dir() else []
        if not paths:
            raise UserError(
                f"No images found in {folder}.",
                expected="png, jpg, tif or bmp files in the folders images and masks, paired by name",
                fix="put them there, or give another folder with --data.root",
            )
        by_stem: dict[str, Path] = {}
        for path in paths:
            if path.stem in by_stem:
                same = f"{by_stem[path.stem]} and {path.name} have the same name."
                self.complain(UserError(same, fix="rename one of them"))
            by_stem[path.stem] = path
        return by_stem

    def _group_of(self, stem: str) -> str:
        if self.group is None:
            return ""
        match = self.group.search(stem)
        if match is None:
            raise UserError(
                f"The group pattern {self.group.pattern!r} does not match the image name {stem!r}.",
                fix="give --data.group a regular expression that finds the patient in every name",
            )
        return match[1] if self.group.groups else match[0]


def _highest_value(path: Path) -> int:
    try:
        return int(read_indexed_mask(path).max(initial=0))
    except UserError:  # colours are no class ids; a damaged file is reported when it is needed
        return 255


def _read_classes(file: Path) -> tuple[str, ...]:
    """Read ``id: name`` lines; the ids must be 1..C (0, the background, may be named as well)."""
    expected = "lines such as '1: lesion', with the ids 1, 2, 3 and so on without gaps"
    fix = "write one 'id: name' line for each foreground class"
    try:
        classes: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read.", expected=expected, found=str(error), fix=fix) from error
    if isinstance(classes, dict):
        names = {key: str(name) for key, name in classes.items() if key != 0}
        if names and set(names) == set(range(1, len(names) + 1)):
            return tuple(names[key] for key in sorted(names))
    raise UserError(f"{file} does not name the classes.", expected=expected, found=str(classes), fix=fix)
