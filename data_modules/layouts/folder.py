"""Your own images: ``root/{images,masks}``, optionally ``unlabelled``, ``splits/*.txt`` and ``classes.yaml``."""

import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from data_modules.layouts.base import (
    Item,
    Layout,
    Splits,
    check_root,
    check_size,
    list_images,
    natural_key,
    random_splits,
)
from data_modules.layouts.lists import listed_splits
from lightning_samseg.errors import UserError
from lightning_samseg.io.alignment import aligned
from lightning_samseg.io.images import read_indexed_mask
from lightning_samseg.io.volumes import (
    Volume,
    case_name,
    is_volume,
    open_volume,
    read_slice,
    read_volume,
    scaled_slice,
)
from lightning_samseg.io.yaml_files import read_yaml

_LOOK_AT = 50  # masks that are opened to tell binary from indexed
_MOST_CLASSES = 31  # a larger value in a mask is a grey level, not a class id


class FolderLayout(Layout):
    """A folder of images with masks of the same name; the arguments are those of ``FolderDataModule``.

    Args:
        scale_volumes: Scale each volume by its minimum and maximum to 0..1 as it is read.
    """

    name = "folder"
    scales_volumes = True

    def __init__(
        self,
        root: str,
        masks: Literal["auto", "binary", "indexed"] = "auto",
        group: str | None = None,
        split: Literal["auto", "lists", "random"] = "auto",
        split_seed: int = 0,
        scale_volumes: bool = False,
    ) -> None:
        self.root, self.masks, self.split, self.split_seed = Path(root).expanduser(), masks, split, split_seed
        self.scale_volumes = scale_volumes
        self._volumes: dict[Path, Volume] = {}
        self._unplaced: list[str] = []
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
        paths = dict.fromkeys(path for item in self.items() for path in item.masks)
        highest = max(map(_highest_value, list(paths)[:_LOOK_AT]))
        if self.masks == "auto" and not 1 < highest <= _MOST_CLASSES:
            return ("foreground",)
        return tuple(f"class {number}" for number in range(1, max(1, highest) + 1))

    @property
    def indexed(self) -> bool:
        """Whether mask values are class ids; otherwise ``read_mask`` tells the foreground of a single class."""
        return self.masks == "indexed" or (self.masks == "auto" and len(self.class_names) > 1)

    def splits(self) -> Splits:
        """List the images and divide them by ``splits/{train,val,test}.txt``, or 70/10/20 by group.

        Slices of volumes to train on are items of their own, volume after volume; those to evaluate belong to theirs.

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
        paths = _list_files(extra) if extra.is_dir() else []
        unlabelled = [item for path in paths for item in self._items_of(case_name(path), path)]
        return splits._replace(train=_single(splits.train), unlabelled=_single(unlabelled))

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
            if is_volume(image) != is_volume(mask):
                same = UserError(f"{image} and its mask {mask} must be of one kind.", fix="save both as volumes")
                self.complain(same)
                continue
            items += self._items_of(stem, image, mask)
        for path in masks.values():
            self.complain(UserError(f"{path} has no image.", fix="remove it, or add its image"), harmless=True)
        return items

    def binary_masks(self, item: Item) -> tuple[Path, ...]:
        """The masks, unless their values are class ids."""
        return () if self.indexed or is_volume(item.image) else item.masks

    @cached_property
    def sliced(self) -> bool:  # type: ignore[override]
        """Whether there are volumes, of whose slices some show no foreground."""
        folder = self.root / "images"
        return folder.is_dir() and any(map(is_volume, _list_files(folder)))

    def notes(self) -> list[str]:
        """Say which masks of volumes are turned onto their images, or have to be taken as they are."""
        notes = []
        if turned := [path.name for path, volume in self._volumes.items() if volume.turned]:
            notes.append(
                f"{len(turned)} masks, such as {turned[0]}, are stored with axes flipped or permuted against their "
                "images and are turned onto them"
            )
        if self._unplaced:
            notes.append(
                f"{len(self._unplaced)} masks, such as {self._unplaced[0]}, or their images do not state where they "
                "lie (qform, sform, TransformMatrix): they are taken to be stored alike"
            )
        return notes

    def read_image(self, item: Item) -> np.ndarray:
        """Read a picture, or one slice of a volume: ``(H, W)`` or ``(H, W, 3)``.

        Raises:
            UserError: If the file is damaged or holds values that are not finite.
        """
        if not is_volume(item.image):
            return super().read_image(item)
        read = scaled_slice if self.scale_volumes else read_slice
        return read(self._volume(item.image), item.slice_index)

    def spacing(self, item: Item) -> tuple[float, ...] | None:
        """Voxel size ``(slice, row, column)`` of a volume in mm."""
        return self._volume(item.image).spacing if is_volume(item.image) else None

    def read_label(self, item: Item, size: tuple[int, int]) -> np.ndarray:
        """Read binary masks as class 1 and indexed ones as they are; uint8 ``(H, W)``.

        Raises:
            UserError: If the mask has another size than the image or a value that is no class.
        """
        path = item.masks[0]
        if is_volume(path):
            label = self._slice_of_mask(item)
        elif not self.indexed:
            return super().read_label(item, size)
        else:
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

    def _items_of(self, stem: str, image: Path, mask: Path | None = None) -> list[Item]:
        item = Item(stem, image, () if mask is None else (mask,), group=self._group_of(stem) if mask else "")
        if not is_volume(image):
            return [item]
        try:
            shape = self._volume(image).shape
            if mask is not None:
                self._volume(mask, image)
        except UserError as error:
            self.complain(error)
            return []
        return [item._replace(slice_index=index, num_slices=shape[0]) for index in range(shape[0])]

    def _volume(self, path: Path, image: Path | None = None) -> Volume:
        """Header of a volume; a mask's is turned onto its image."""
        if path not in self._volumes:
            volume = open_volume(path)
            if image is not None:
                volume = aligned(volume, self._volume(image))
                if bool(volume.placements) != bool(self._volume(image).placements):
                    self._unplaced.append(path.name)
            self._volumes[path] = volume
        return self._volumes[path]

    def _slice_of_mask(self, item: Item) -> np.ndarray:
        values = read_slice(self._volume(item.masks[0], item.image), item.slice_index)
        if not self.indexed:
            return (values > 0).astype(np.uint8)
        ids = values.astype(np.uint8)
        if (ids != values).any():
            raise UserError(
                f"{item.masks[0]}: slice {item.slice_index + 1} holds values that are no class ids.",
                expected="whole numbers 0..255",
                found=", ".join(f"{value:g}" for value in np.unique(values)[:6]),
                fix="write the mask again without interpolation, or set --data.masks binary",
            )
        return ids

    def _by_stem(self, name: str) -> dict[str, Path]:
        folder = self.root / name
        paths = _list_files(folder) if folder.is_dir() else []
        if not paths:
            raise UserError(
                f"No images found in {folder}.",
                expected="png, jpg, tif, bmp or webp files, or nii, nii.gz, mha or mhd volumes, "
                "in the folders images and masks, paired by name",
                fix="put them there, or give another folder with --data.root",
            )
        by_stem: dict[str, Path] = {}
        for path in paths:
            stem = case_name(path)
            if stem in by_stem:
                same = f"{by_stem[stem]} and {path.name} have the same name."
                self.complain(UserError(same, fix="rename one of them"))
            by_stem[stem] = path
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


def _list_files(folder: Path) -> list[Path]:
    """Pictures and volumes directly inside a folder, in natural order."""
    return sorted(
        [*list_images(folder), *(path for path in folder.iterdir() if is_volume(path) and path.name[0] != ".")],
        key=lambda path: natural_key(path.name),
    )


def _single(items: Iterable[Item]) -> list[Item]:
    """Slices as cases of their own, for training; pictures as they are."""
    return [
        item._replace(
            case_id=f"{item.case_id}_slice_{item.slice_index + 1}", group=item.group or item.case_id, num_slices=1
        )
        if is_volume(item.image)
        else item
        for item in items
    ]


def _highest_value(path: Path) -> int:
    try:
        return int((read_volume(open_volume(path)) if is_volume(path) else read_indexed_mask(path)).max(initial=0))
    except UserError:  # colours are no class ids; a damaged file is reported when it is needed
        return 255


def _read_classes(file: Path) -> tuple[str, ...]:
    """Read ``id: name`` lines; the ids must be 1..C (0, the background, may be named as well)."""
    expected = "lines such as '1: lesion', with the ids 1, 2, 3 and so on without gaps"
    content = read_yaml(file, expected, texts=True)
    lines = content.items() if isinstance(content, dict) else ()
    names = {
        int(key): name.strip()
        for key, name in lines
        if isinstance(key, str) and key.isdecimal() and isinstance(name, str) and name.strip()
    }
    foreground = [names[key] for key in sorted(names) if key != 0]
    if not foreground or len(names) < len(lines) or max(names) > len(foreground):
        raise UserError(
            f"{file} does not name the classes.",
            expected=expected,
            found=str(content)[:200] or "nothing",
            fix="write one 'id: name' line for each foreground class",
        )
    if twice := [name for name in foreground if foreground.count(name) > 1]:
        ids = ", ".join(str(key) for key in sorted(names) if names[key] == twice[0])
        raise UserError(f"{file} names several classes {twice[0]}.", found=f"ids {ids}", fix="give each its own name")
    return tuple(foreground)
