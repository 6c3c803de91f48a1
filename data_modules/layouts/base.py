"""The parts every data set's layout is made of: an item, a split, and how pixels and labels are read by default."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from tqdm import tqdm

from lightning_samseg.errors import UserError
from lightning_samseg.io.images import IMAGE_SUFFIXES, orientation_of, read_image
from lightning_samseg.io.mask_levels import Levels, look_at
from lightning_samseg.io.mask_rules import Decision, Masks, decide, describe
from lightning_samseg.io.masks import StoredMask, as_instances, as_label, read_stored_mask
from lightning_samseg.types import IGNORED


class Item(NamedTuple):
    """One 2-D network input as files on disk. Paths only: nothing has been opened yet."""

    case_id: str
    """Unit of evaluation: the image, or the volume that the slice belongs to."""
    image: Path
    masks: tuple[Path, ...] = ()
    """Files whose union is the label; empty where the image has none."""
    category: str = ""
    """Stratum that a random split keeps in proportion, such as benign and malignant."""
    group: str = ""
    """What a split must not separate, such as the patient; the case itself where empty."""
    class_id: int = 1
    """Class of the foreground of binary masks, 1..C."""
    slice_index: int = 0
    num_slices: int = 1


class Splits(NamedTuple):
    """A data set divided. ``train[:N]`` are the labelled images when N are asked for, so 10 nest in 20."""

    train: list[Item]
    val: list[Item]
    test: list[Item]
    unlabelled: Sequence[Item] = ()
    """Training images that have no mask at all; they join the unlabelled stream."""


StreamPart = Literal["all", "test"]
"""What online learning walks through: every image that has a label, or those of the split's test part."""


class Layout:
    """A data set in its native layout. A subclass lists its items and says how they are split.

    Reading is separate from listing, so that a data set with another file format only overrides the ``read_*`` methods.
    """

    name = "data set"
    class_names: tuple[str, ...] = ()
    """Names of the foreground classes 1..C in order."""
    sliced = False
    """Whether items are slices of volumes, of which some show no foreground."""
    scales_volumes = False
    """Whether ``normalise: stored`` stands for volumes that were scaled by their minimum and maximum to 0..1."""
    without_foreground: frozenset[str] = frozenset()
    """Categories whose labels are empty."""
    masks: Masks = "binary"
    """What the values of mask files mean."""
    ignore: int | None = None
    """Value of mask files that counts for nothing."""
    problems: list[UserError] | None = None
    """Set by ``data verify``, which collects what is wrong with single files; None: the first of them is raised."""

    def splits(self) -> Splits:
        """List the files and divide them.

        Raises:
            UserError: If the data are missing or incomplete, or a list names what is not there.
        """
        raise NotImplementedError

    def items(self) -> list[Item]:
        """List all images that have a label, each once, whatever part they are in.

        Raises:
            UserError: As ``splits``, which this default asks.
        """
        splits = self.splits()
        return list(dict.fromkeys([*splits.train, *splits.val, *splits.test]))

    def stream_sets(self, part: StreamPart = "all") -> dict[str, list[Item]]:
        """List the images that online learning walks through, by set: the categories, or all in one set of this name.

        Args:
            part: ``all`` needs no split.

        Raises:
            UserError: As ``items``, or as ``splits``.
        """
        sets: dict[str, list[Item]] = {}
        for item in self.items() if part == "all" else self.splits().test:
            sets.setdefault(item.category or self.name, []).append(item)
        return sets

    def read_image(self, item: Item) -> np.ndarray:
        """Read the pixels of an item: ``(H, W)`` or ``(H, W, 3)``, values as stored."""
        return read_image(item.image)

    def read_label(self, item: Item, size: tuple[int, int]) -> np.ndarray:
        """Read the label of an item.

        Args:
            item: The item.
            size: ``(H, W)`` of its image in pixels.

        Returns:
            uint8 ``(H, W)``: class ids 0..C, or ``IGNORED``. Here the union of the item's masks times its class id, or
            the class ids that the masks hold.

        Raises:
            UserError: If a mask cannot be read, has another size than the image, or does not fit ``decided``.
        """
        label = np.zeros(size, dtype=np.uint8)
        for path in item.masks:
            mask = as_label(self._fitting(item, path), self.decided.rule, path)
            check_size(mask, size, path, item.image)
            inside = (mask > 0) & (mask != IGNORED)
            label[inside] = mask[inside] if self.decided.rule.kind == "indexed" else item.class_id
            label[(mask == IGNORED) & (label == 0)] = IGNORED
        return label

    def read_instances(self, item: Item, size: tuple[int, int]) -> np.ndarray | None:
        """Read each pixel's object: int32 ``(H, W)``, 0 where there is none; None if the data set does not tell.

        Raises:
            UserError: As ``read_label``.
        """
        if len(item.masks) != 1 or self.decided.rule.kind != "instances":
            return None
        numbers = as_instances(self._fitting(item, item.masks[0]), self.decided.rule)
        if numbers is not None:
            check_size(numbers, size, item.masks[0], item.image)
        return numbers

    def stored_mask(self, item: Item, path: Path) -> StoredMask:
        """Read the numbers of one of an item's mask files."""
        return read_stored_mask(path, self.decided.rule.indices)

    @cached_property
    def levels(self) -> dict[Path, Levels]:
        """Values of all masks of all items, whatever part they are in; nothing if the layout lists none."""
        try:
            items = self.items()
        except NotImplementedError:
            items = []
        paths = (path for item in items for path in item.masks)
        return look_at(paths, self.ignore, indices=self.masks == "indexed", progress=self._progress)

    @cached_property
    def decided(self) -> Decision:
        """What the values of the masks mean.

        Raises:
            UserError: If nobody knows.
        """
        names = self.class_names if self.masks in ("auto", "indexed") else ()
        return decide(self.levels, self.masks, self.ignore, names, options=False)

    def check_masks(self, items: Iterable[Item]) -> list[str]:
        """Say what the masks are taken for, a line each; nothing where items have no mask files.

        Args:
            items: Those that are asked for; all masks of the data set are looked at.

        Raises:
            UserError: If the values of all masks fit no rule, or one of them does not fit the rule.
        """
        if not any(item.masks for item in items):
            return []
        for error in self.decided.faults.values():
            self.complain(error)
        return describe(self.decided.rule, self.levels)

    def remarks(self, items: Iterable[Item]) -> list[str]:
        """Say what a user should know before these items are used, a line each.

        Raises:
            UserError: As ``check_masks``.
        """
        said = [f"{self.name}: {line}" for line in self.check_masks(items)]
        return [*said, *(f"warning: {self.name}: {note}" for note in self.notes())]

    def _fitting(self, item: Item, path: Path) -> StoredMask:
        if path in self.decided.faults:
            raise self.decided.faults[path]
        return self.stored_mask(item, path)

    def _progress(self, paths: Iterable[Path], count: int) -> Iterable[Path]:
        return tqdm(paths, f"looking at the masks of {self.name}", count, unit="mask", disable=None)

    def spacing(self, item: Item) -> tuple[float, ...] | None:
        """Voxel size of an item in mm in array order, None where the data set does not tell."""
        return None

    def notes(self) -> list[str]:
        """Say what a user should know of the data found, a line each."""
        return []

    def complain(self, error: UserError, *, harmless: bool = False) -> None:
        """Raise an error that concerns a single file, or note it down and go on where problems are collected.

        Args:
            error: The problem.
            harmless: Of no consequence for training; it is noted down but never raised.

        Raises:
            UserError: The error.
        """
        if self.problems is not None:
            self.problems.append(error)
        elif not harmless:
            raise error


def check_size(mask: np.ndarray, size: tuple[int, int], path: Path, image: Path) -> None:
    """Refuse a mask that does not fit its image.

    Raises:
        UserError: If ``mask`` is not ``(H, W)`` = ``size``.
    """
    if mask.shape == size:
        return
    found, fix = f"{mask.shape[1]} x {mask.shape[0]} pixels", "export the mask again at the size of the image"
    turns = image.suffix.lower() in IMAGE_SUFFIXES and mask.shape == size[::-1]
    if turns and (orientation := orientation_of(image)) > 4:
        found += f"; the image's EXIF orientation {orientation} turns it by 90 degrees in viewers"
        fix = "draw the mask on the image as viewers show it, or, if it fits the stored pixels, drop the image's EXIF"
    raise UserError(
        f"{path}: the mask has another size than its image {image.name}.",
        expected=f"{size[1]} x {size[0]} pixels (width x height), as the image",
        found=found,
        fix=f"{fix}, or remove the pair",
    )


def check_known(label: np.ndarray, layout: Layout, item: Item) -> None:
    """Refuse ignored pixels of a layout that ignores nothing: a class or white of another meaning.

    Raises:
        UserError: If there are any.
    """
    if layout.ignore is None and (label == IGNORED).any():
        raise UserError(
            f"{item.image}: its label holds {IGNORED}, which stands for pixels that are ignored.",
            expected=f"class ids 0..{len(layout.class_names)}; {layout.name} ignores nothing",
            fix=f"let {type(layout).__name__}.read_label give class ids, or set its ignore",
        )


def check_root(root: str | Path, name: str) -> Path:
    """Turn the ``root`` argument into a path.

    Raises:
        UserError: If there is no such folder.
    """
    path = Path(root).expanduser()
    if not path.is_dir():
        raise UserError(
            f"There is no data folder {path} for {name}.",
            fix="give the folder of the data set with --data.root; data_modules/README.md says where to get each one",
        )
    return path


def list_images(folder: Path) -> list[Path]:
    """List the pictures directly inside ``folder`` by their endings, in natural order (2 before 10)."""
    paths = (path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != ".")
    return sorted(paths, key=lambda path: natural_key(path.name))


def natural_key(name: str) -> list[tuple[int, str]]:
    """Give a sort key that orders numbers inside names by value."""
    digits, key = "", []
    for letter in name + " ":
        if letter.isascii() and letter.isdigit():
            digits += letter
            continue
        if digits:
            key.append((int(digits), ""))
            digits = ""
        key.append((-1, letter))
    return key


def shuffled(names: list[str], seed: int) -> list[str]:
    """Order names by the sha256 of ``"{seed} {name}"``: the same on every platform and with every library version."""
    return sorted(names, key=lambda name: sha256(f"{seed} {name}".encode()).hexdigest())


def mix_categories(strata: list[list[Item]]) -> list[Item]:
    """Merge several orders into one whose every prefix holds the categories in about their overall proportion.

    At each place the stratum that lags most behind its share comes next; within a stratum the order is kept.
    """
    total = sum(map(len, strata))
    taken = [0] * len(strata)
    merged: list[Item] = []
    for place in range(1, total + 1):
        lag = [len(items) * place / total - count for items, count in zip(strata, taken, strict=True)]
        chosen = max(range(len(strata)), key=lambda index: (taken[index] < len(strata[index]), lag[index], -index))
        merged.append(strata[chosen][taken[chosen]])
        taken[chosen] += 1
    return merged


def random_splits(items: list[Item], seed: int, train: float = 0.7, val: float = 0.1) -> Splits:
    """Divide items into training, validation and test, by category if none gets empty, keeping each group on one side.

    Args:
        items: All labelled items.
        seed: Key of the order; the same seed and names give the same split everywhere.
        train: Share of training items.
        val: Share of validation items; the rest is tested.

    Returns:
        The split; categories are mixed in proportion at every prefix of ``train``.

    Raises:
        UserError: If a part would be empty.
    """
    splits = divide(items, seed, train, val)
    if not all(splits[:3]):  # categories are too small
        splits = divide(items, seed, train, val, by_category=False)
    for name, part_items in zip(("training", "validation", "test"), splits[:3], strict=True):
        if not part_items:
            raise UserError(
                f"The random split leaves no {name} images.",
                expected="enough images (and groups) for 70 % training, 10 % validation and 20 % test: at least 5",
                found=f"{len(items)} images in {len({item.group or item.case_id for item in items})} groups",
                fix="add images, or write the lists splits/train.txt, val.txt and test.txt yourself (folder data)",
            )
    return splits


def divide(items: list[Item], seed: int, train: float, val: float, by_category: bool = True) -> Splits:
    """Divide items as ``random_splits``, whatever becomes of small parts."""
    strata: dict[str, dict[str, list[Item]]] = {}
    category_of: dict[str, str] = {}
    for item in items:
        group = item.group or item.case_id
        own = item.category if by_category else ""
        category = category_of.setdefault(group, own)  # a group is never divided, even between categories
        strata.setdefault(category, {}).setdefault(group, []).append(item)

    parts: tuple[list[list[Item]], ...] = ([], [], [])
    for groups in (strata[category] for category in sorted(strata)):
        size, seen = sum(map(len, groups.values())), 0
        sides: tuple[list[Item], ...] = ([], [], [])
        for group in shuffled(list(groups), seed):
            middle = (seen + len(groups[group]) / 2) / size  # a group goes to the part that its middle falls into
            sides[0 if middle < train else 1 if middle < train + val else 2].extend(groups[group])
            seen += len(groups[group])
        for part, side in zip(parts, sides, strict=True):
            part.append(side)

    return Splits(*(mix_categories(part) for part in parts))
