"""BUSI, breast ultrasound (Al-Dhabyani et al., Data in Brief 2020), as released: ``Dataset_BUSI_with_GT/{benign,...}``.

``python -m data_modules.layouts.busi`` writes the committed lists again.
"""

import re
from pathlib import Path
from typing import Literal

from data_modules.layouts.base import (
    Item,
    Layout,
    Splits,
    check_root,
    mix_categories,
    natural_key,
    random_splits,
    shuffled,
)
from data_modules.layouts.lists import list_text, listed_splits
from lightning_samseg.errors import UserError
from lightning_samseg.io.text import write_text

LISTS = Path(__file__).parents[1] / "splits" / "busi"
LIST_SEED = 2024
RELEASED = {"benign": 437, "malignant": 210}
"""Images per category in the full release; the 133 of ``normal`` are not in the lists."""
_VAL_AND_TEST = {"benign": (43, 88), "malignant": (43, 42)}
_PATTERN = re.compile(
    r"(?P<case>(?P<category>benign|malignant|normal) \(\d+\))(?P<mask>_mask(_\d+)?)?\.(png|PNG)", re.ASCII
)


class BusiLayout(Layout):
    """BUSI's files and splits; the arguments are those of ``BusiDataModule``."""

    name = "BUSI"
    without_foreground = frozenset({"normal"})

    def __init__(
        self,
        root: str,
        classes: Literal["lesion", "category"] = "lesion",
        include_normal: bool = False,
        split: Literal["committed", "random"] = "committed",
        split_seed: int = 0,
    ) -> None:
        self.root, self.classes, self.include_normal, self.split, self.split_seed = (
            root,
            classes,
            include_normal,
            split,
            split_seed,
        )
        self.class_names = ("lesion",) if classes == "lesion" else ("benign", "malignant")

    def splits(self) -> Splits:
        """List the images and divide them by the committed lists or 70/10/20 at random by category.

        Raises:
            UserError: See ``items``; also where listed images are missing, or normal images are asked for with the
                lists.
        """
        if self.split == "committed" and self.include_normal:
            raise UserError(
                "The committed lists of BUSI hold no normal images.",
                fix="use --data.split random with --data.include_normal true, or leave the normal images out",
            )
        items = self.items()
        if self.split == "random":
            return random_splits(items, self.split_seed)
        fix = "download the full release, or split what is there with --data.split random"
        return listed_splits(items, LISTS, Path(self.root), fix=fix)

    def items(self) -> list[Item]:
        """List the images with their masks, in natural order.

        Returns:
            One item per image; ``_mask_1.png`` and so on are further masks of the same image.

        Raises:
            UserError: If the folder is missing, holds no BUSI image, or an image has no mask.
        """
        root = check_root(self.root, self.name)
        nested = root / "Dataset_BUSI_with_GT"
        root = nested if nested.is_dir() else root
        items = []
        for category in ("benign", "malignant", "normal") if self.include_normal else ("benign", "malignant"):
            class_id = 2 if self.classes == "category" and category == "malignant" else 1
            items += self._list_category(root / category, category, class_id)
        if not items:
            raise UserError(
                f"No BUSI images found in {root}.",
                expected="folders benign and malignant with files such as 'benign (1).png' and 'benign (1)_mask.png'",
                fix="point --data.root at Dataset_BUSI_with_GT or at the folder that holds it",
            )
        return items

    def _list_category(self, folder: Path, category: str, class_id: int) -> list[Item]:
        images: dict[str, Path] = {}
        masks: dict[str, list[Path]] = {}
        names: dict[str, Path] = {}
        for path in sorted(folder.iterdir(), key=lambda path: natural_key(path.name)) if folder.is_dir() else ():
            match = _PATTERN.fullmatch(path.name)
            if match is None or match["category"] != category:
                continue
            if (other := names.setdefault(path.stem, path)) != path:
                same = f"{other} and {path.name} have the same name."
                self.complain(UserError(same, fix="remove the one that is not of the release"))
                continue
            if match["mask"]:
                masks.setdefault(match["case"], []).append(path)
            else:
                images[match["case"]] = path
        for case_id, image in images.items():
            if case_id not in masks:
                error = UserError(
                    f"{image} has no mask.",
                    expected=f"{image.with_name(case_id + '_mask.png')}",
                    fix="copy the mask from the release, or remove the image",
                )
                self.complain(error)
        for case_id in masks.keys() - images.keys():
            error = UserError(f"{masks[case_id][0]} has no image.", fix="remove it, or add its image")
            self.complain(error, harmless=True)
        paired = [case_id for case_id in images if case_id in masks]
        return [Item(case_id, images[case_id], tuple(masks[case_id]), category, "", class_id) for case_id in paired]


def make_lists(seed: int = LIST_SEED) -> dict[str, list[str]]:
    """Make the lists train (431), val (86), test (130) and labelled, an order of train, from the released numbering.

    Per category the names are ordered by hash; the first go to test, the next to validation. The composition, 306 +
    125, 43 + 43 and 88 + 42 benign + malignant, is the one inferred for the authors' fold 0; which images they drew is
    not public.

    Args:
        seed: Key of the hash order.

    Returns:
        Case ids by list name.
    """
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    order: list[list[Item]] = []
    for category, count in RELEASED.items():
        names = shuffled([f"{category} ({number})" for number in range(1, count + 1)], seed)
        num_val, num_test = _VAL_AND_TEST[category]
        lists["test"] += sorted(names[:num_test], key=natural_key)
        lists["val"] += sorted(names[num_test : num_test + num_val], key=natural_key)
        lists["train"] += sorted(names[num_test + num_val :], key=natural_key)
        order.append([Item(name, Path()) for name in names[num_test + num_val :]])
    lists["labelled"] = [item.case_id for item in mix_categories(order)]
    return lists


def format_list(name: str, names: list[str]) -> str:
    """Give the text of one committed list file, with its provenance on top."""
    meaning = "training images in the order in which they are labelled" if name == "labelled" else f"{name} images"
    head = f"BUSI, {len(names)} {meaning}; made by python -m data_modules.layouts.busi, seed {LIST_SEED}"
    return list_text(head, names)


if __name__ == "__main__":
    for list_name, case_ids in make_lists().items():
        write_text(LISTS / f"{list_name}.txt", format_list(list_name, case_ids))
