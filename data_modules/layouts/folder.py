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
    list_images,
    natural_key,
    random_splits,
)
from data_modules.layouts.lists import listed_splits
from lightning_samseg.errors import UserError
from lightning_samseg.io.alignment import aligned
from lightning_samseg.io.file_kinds import described
from lightning_samseg.io.mask_rules import Decision, Masks, decide
from lightning_samseg.io.masks import StoredMask
from lightning_samseg.io.text import escape, nfc
from lightning_samseg.io.volumes import (
    Volume,
    case_name,
    is_volume,
    open_volume,
    read_slice,
    scaled_slice,
)
from lightning_samseg.io.yaml_files import read_yaml


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
        masks: Masks = "auto",
        group: str | None = None,
        split: Literal["auto", "lists", "random"] = "auto",
        split_seed: int = 0,
        scale_volumes: bool = False,
        ignore: int | None = None,
        mask_suffix: str = "",
        subfolders: bool | None = None,
    ) -> None:
        self.root, self.masks, self.split, self.split_seed = Path(root).expanduser(), masks, split, split_seed
        self.scale_volumes, self.ignore = scale_volumes, ignore
        self.mask_suffix, self.subfolders = mask_suffix, subfolders
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
        if self._named:
            return self._named
        rule = self.decided.rule
        return tuple(f"class {n}" for n in range(1, rule.classes + 1)) if rule.kind == "indexed" else ("foreground",)

    @cached_property
    def decided(self) -> Decision:
        """What the values of the masks mean.

        Raises:
            UserError: If nobody knows.
        """
        return decide(self.levels, self.masks, self.ignore, self._named)

    @cached_property
    def _named(self) -> tuple[str, ...]:
        """Classes of ``classes.yaml``; none where there is no such file."""
        files = (self.root / f"classes.{ending}" for ending in ("yaml", "yml"))
        return next((_read_classes(file) for file in files if file.is_file()), ())

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
        paths = self._files(extra)
        unlabelled = [item for path in paths for item in self._items_of(self._name_of(path, extra), path)]
        return splits._replace(train=_single(splits.train), unlabelled=_single(unlabelled))

    def items(self) -> list[Item]:
        """Pair images with masks by name (endings may differ), in natural order.

        Raises:
            UserError: If a folder is missing or empty, names are ambiguous, an image has no mask, or ``group`` does not
                match.
        """
        check_root(self.root, "your images")
        images = self._by_stem("images")
        masks = self._by_stem("masks", self.mask_suffix)
        if not images.keys() & masks.keys():
            raise _no_pairs(self.root, list(images), list(masks))
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

    @cached_property
    def sliced(self) -> bool:  # type: ignore[override]
        """Whether there are volumes, of whose slices some show no foreground."""
        folder = self.root / "images"
        inside = folder.rglob("*") if self.subfolders else folder.glob("*")
        return any(map(is_volume, inside))

    def notes(self) -> list[str]:
        """Say which files are left alone, which masks of volumes are turned onto their images, or taken as they are."""
        notes = [
            f"{len(others)} files in {name} are no images and left alone, such as {described(others[0])}"
            for name in ("images", "masks", "unlabelled")
            if (others := _other_files(self.root / name))
        ]
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

    def stored_mask(self, item: Item, path: Path) -> StoredMask:
        """Read the numbers of a picture, or of one slice of a volume."""
        if not is_volume(path):
            return super().stored_mask(item, path)
        return StoredMask(read_slice(self._volume(path, item.image), item.slice_index))

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

    def _by_stem(self, name: str, suffix: str = "") -> dict[str, Path]:
        folder = self.root / name
        paths = self._files(folder)
        if not paths:
            others = _other_files(folder)
            raise UserError(
                f"No images found in {folder}.",
                expected="png, jpg, tif, bmp or webp files, or nii, nii.gz, mha or mhd volumes, "
                "in the folders images and masks, paired by name",
                found=", ".join(map(described, others[:4])) or None,
                fix=f"{'export them as such' if others else 'put them there'}, or give another folder with --data.root",
            )
        by_stem: dict[str, Path] = {}
        for path in paths:
            stem = self._name_of(path, folder)
            if not stem.endswith(suffix):
                strange = f"{path} is no mask: its name does not end with {suffix}."
                self.complain(UserError(strange, fix="rename or remove it"), harmless=True)
                continue
            stem = stem.removesuffix(suffix)
            if stem in by_stem:
                same = f"{by_stem[stem]} and {path.name} have the same name."
                self.complain(UserError(same, fix="rename one of them"))
            by_stem[stem] = path
        return by_stem

    def _files(self, folder: Path) -> list[Path]:
        """Pictures and volumes of a folder, in natural order; none where it is not there.

        Raises:
            UserError: If it has folders of its own with such files and nobody has said what to do with them.
        """
        if not folder.is_dir():
            return []
        inside = [path for path in folder.rglob("*") if path.is_dir() and path.name[0] not in "._"]
        deep = {path: files for path in inside if (files := _list_files(path))} if self.subfolders is not False else {}
        if deep and self.subfolders is None:
            raise UserError(
                f"{folder} has folders of its own with images, such as {next(iter(deep)).relative_to(folder)}.",
                expected="to be told whether they belong to the data",
                fix="set --data.subfolders true, or false to leave them out",
            )
        files = [*_list_files(folder), *(path for files in deep.values() for path in files)]
        return sorted(files, key=lambda path: natural_key(path.relative_to(folder).as_posix()))

    def _name_of(self, path: Path, folder: Path) -> str:
        """Name of a file's case: without ending, with the folders between."""
        parts = path.relative_to(folder).parts[:-1]
        return "/".join([*(escape(nfc(part)) for part in parts), case_name(path)])

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
    """Pictures and volumes directly inside a folder."""
    return [*list_images(folder), *(path for path in folder.iterdir() if is_volume(path) and path.name[0] != ".")]


def _other_files(folder: Path) -> list[Path]:
    """Files directly inside a folder that are neither pictures, volumes, nor the voxels of some."""
    if not folder.is_dir():
        return []
    known = {*_list_files(folder)}
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != ".")
    return [path for path in paths if path not in known and path.suffix.lower() not in (".raw", ".zraw")]


def _no_pairs(root: Path, images: list[str], masks: list[str]) -> UserError:
    """Say how the names of images and masks differ, if it is by something before or behind them."""
    fix = f"give each mask the name of its image, or move images without masks to {root / 'unlabelled'}"
    for longer, shorter, what in ((masks, images, "mask"), (images, masks, "image")):
        known = set(shorter)
        for name in longer:
            own = Path(name).name
            for cut in range(1, len(own)):
                if what == "mask" and name[:-cut] in known:
                    fix = f"set --data.mask_suffix {name[-cut:]}"
                elif name[:-cut] in known or name[: -len(own)] + own[cut:] in known:
                    part = own[-cut:] if name[:-cut] in known else own[:cut]
                    fix = f"take {part} out of the names of the {what}s"
                else:
                    continue
                found = f"{shorter[0]} and {longer[0]}"
                return UserError(f"Images and masks in {root} are not named alike.", found=found, fix=fix)
    return UserError(
        f"No image in {root / 'images'} has a mask.",
        expected=f"masks of the same names in {root / 'masks'}",
        found=f"images such as {images[0]}, masks such as {masks[0]}" if masks else "no mask",
        fix=fix,
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
