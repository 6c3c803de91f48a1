"""Polyps in colonoscopy: the five-set benchmark in PraNet's layout (Fan et al., MICCAI 2020), or its parts as released.

``python -m data_modules.layouts.polyp`` writes the committed lists again.
"""

from bisect import bisect_right
from pathlib import Path
from typing import Literal

from data_modules.layouts.base import Item, Layout, Splits, StreamPart, check_root, divide, list_images, random_splits
from data_modules.layouts.lists import list_text
from lightning_samseg.errors import UserError
from lightning_samseg.io.text import write_text
from lightning_samseg.io.volumes import case_name

LISTS = Path(__file__).parents[1] / "splits" / "polyp"
TRAIN = "TrainDataset"
SETS = {"CVC-ClinicDB": 62, "CVC-ColonDB": 380, "ETIS-LaribPolypDB": 196, "Kvasir": 100, "CVC-300": 60}
"""PraNet's test sets with their numbers of images, in the order in which AuxOL walks through them."""
KNOWN_NAMES = {"CVC-ColonDB": (1, 380), "ETIS-LaribPolypDB": (1, 196), "CVC-300": (149, 208)}
"""First and last file of the test sets whose files are numbered without gaps."""
_RELEASED_AS = {"Kvasir": ("Kvasir", "Kvasir-SEG"), "CVC-ClinicDB": ("CVC-ClinicDB", "CVC-ClinicDB (PNG)")}
_IMAGES, _MASKS = ("images", "image", "Original"), ("masks", "mask", "Ground Truth")
# First frame of each of ClinicDB's 29 video sequences, from its page at https://polyp.grand-challenge.org/CVCClinicDB
_SEQUENCES = [1, 26, 51, 68, 79, 104, 127, 152, 178, 200, 206, 228, 253, 278, 298, 318, 343, 364, 384, 409, 429, 448]
_SEQUENCES += [467, 479, 504, 529, 547, 572, 592]


class PolypLayout(Layout):
    """Polyp data sets and their splits; the arguments are those of ``PolypDataModule``."""

    name = "polyp"
    class_names = ("polyp",)

    def __init__(self, root: str, split: Literal["auto", "pranet", "random"] = "auto", split_seed: int = 0) -> None:
        self.root, self.split, self.split_seed = root, split, split_seed

    def splits(self) -> Splits:
        """List the images and divide them: PraNet's folders, 10 % of the training images validated; or 70/10/20.

        The frames of one sequence of ClinicDB, numbered as released, stay on one side.

        Raises:
            UserError: See ``listed``; also if a part would be empty, or a folder of PraNet's split is missing that was
                asked for.
        """
        listed = self.listed()
        test = [item for name in _in_order(listed) for item in listed[name] if name != TRAIN]
        train = listed.get(TRAIN, [])
        if self.split == "random" or (self.split == "auto" and not (train and test)):
            return random_splits([*train, *test], self.split_seed)
        if not (train and test):
            raise UserError(
                f"PraNet's split needs {TRAIN} and TestDataset in {self.root}.",
                found=", ".join(listed),
                fix="unpack both archives there, or use --data.split random",
            )
        splits = divide(train, self.split_seed, 0.9, 0.1)._replace(test=test)
        if not splits.val:
            raise UserError(
                f"The training images of {self.root} leave none to validate.",
                expected="at least 10 in TrainDataset",
                found=str(len(train)),
                fix="unpack the whole archive, or use --data.split random",
            )
        return splits

    def items(self) -> list[Item]:
        """List all images with their masks, set by set.

        Raises:
            UserError: See ``listed``.
        """
        return [item for items in self.listed().values() for item in items]

    def stream_sets(self, part: StreamPart = "all") -> dict[str, list[Item]]:
        """The test sets in AuxOL's order, ClinicDB to CVC-300; the training images only where there is nothing else.

        Of PraNet's split these are its test part, so that ``test`` differs where the split is random alone.

        Raises:
            UserError: See ``listed`` and ``splits``.
        """
        if part == "test":
            tested = super().stream_sets(part)
            return {name: tested[name] for name in _in_order(tested)}
        listed = self.listed()
        names = [name for name in _in_order(listed) if name != TRAIN] or [TRAIN]
        return {name: listed[name] for name in names}

    def notes(self) -> list[str]:
        """Which of PraNet's test sets are not complete."""
        listed = self.listed()
        if not (Path(self.root).expanduser() / "TestDataset").is_dir():
            return []
        counts = {name: (len(listed.get(name, [])), number) for name, number in SETS.items()}
        parts = [f"{name} {there} of {number}" for name, (there, number) in counts.items() if there != number]
        return [f"not PraNet's complete test sets, scores do not compare: {', '.join(parts)}"] if parts else []

    def listed(self) -> dict[str, list[Item]]:
        """List the images of each set that is there; a folder that is a set itself is one.

        Raises:
            UserError: If there is no set, a folder lacks its partner, or an image its mask.
        """
        root = check_root(self.root, self.name)
        listed = {name: self._pairs(name, folder) for name, folder in _find(root).items()}
        listed = {name: items for name, items in listed.items() if items}
        if not listed:
            raise UserError(
                f"No polyp images found in {root}.",
                expected="TrainDataset/{image,masks}, TestDataset/CVC-300/{images,masks} and so on, or Kvasir-SEG with "
                "images and masks, or CVC-ClinicDB with Original and 'Ground Truth'",
                found=", ".join(sorted(path.name for path in root.iterdir())[:8]) or "an empty folder",
                fix="point --data.root at the folder that holds TrainDataset and TestDataset, or at one of the sets",
            )
        return listed

    def _pairs(self, name: str, folder: Path) -> list[Item]:
        images, masks = _partner(folder, _IMAGES), _partner(folder, _MASKS)
        if images is None or masks is None:
            side, names = ("images", _IMAGES) if images is None else ("masks", _MASKS)
            self.complain(
                UserError(
                    f"{folder} has no folder of {side}.",
                    expected=" or ".join(names),
                    found=", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir())),
                    fix="unpack the archive again",
                )
            )
            return []
        mask_of = self._by_stem(masks)
        items = []
        for stem, image in self._by_stem(images).items():
            mask = mask_of.pop(stem, None)
            if mask is None:
                error = UserError(
                    f"{image} has no mask.",
                    expected=f"{stem}.png, .jpg, .tif or .bmp in {masks}",
                    fix="copy the mask from the release, or remove the image",
                )
                self.complain(error)
                continue
            category = name if name != TRAIN else "CVC-ClinicDB" if stem.isdigit() else "Kvasir"
            items.append(Item(f"{name}/{stem}", image, (mask,), category, _sequence(stem, category)))
        for mask in mask_of.values():
            self.complain(UserError(f"{mask} has no image.", fix="remove it, or add its image"), harmless=True)
        return items

    def _by_stem(self, folder: Path) -> dict[str, Path]:
        by_stem: dict[str, Path] = {}
        for path in list_images(folder):
            stem = case_name(path)
            if stem in by_stem:
                same = by_stem[stem].name
                self.complain(UserError(f"{path} and {same} have the same name.", fix="remove one of them"))
            by_stem[stem] = path
        return by_stem


def make_lists() -> dict[str, list[str]]:
    """Case ids of the test sets whose file names are known without the files, such as ``CVC-300/149``."""
    return {
        name: [f"{name}/{number}" for number in range(first, last + 1)] for name, (first, last) in KNOWN_NAMES.items()
    }


def format_list(name: str, case_ids: list[str]) -> str:
    """Give the text of a committed list, with its provenance on top."""
    head = f"{name}, {len(case_ids)} test images of PraNet's TestDataset; made by python -m data_modules.layouts.polyp"
    return list_text(head, case_ids)


def _find(root: Path) -> dict[str, Path]:
    if _is_set(root):
        return {_set_name(root.name): root}
    found: dict[str, Path] = {}
    for name in (TRAIN, *SETS):
        for parent in (root, root / "TestDataset"):
            for folder in _RELEASED_AS.get(name, (name,)):
                for inside in (folder, f"{folder}/{folder}", f"{folder}/PNG", f"{folder}/TIF"):
                    if name not in found and _is_set(parent / inside):
                        found[name] = parent / inside
    return found


def _set_name(folder: str) -> str:
    return next((name for name, names in _RELEASED_AS.items() if folder in names), folder)


def _is_set(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in (*_IMAGES, *_MASKS))


def _partner(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _in_order(listed: dict[str, list[Item]]) -> list[str]:
    return [name for name in SETS if name in listed] + [name for name in listed if name not in SETS]


def _sequence(stem: str, category: str) -> str:
    """Video sequence of a frame of ClinicDB, "" for anything else."""
    if category != "CVC-ClinicDB" or not stem.isdigit():
        return ""
    return f"CVC-ClinicDB sequence {bisect_right(_SEQUENCES, int(stem))}"


if __name__ == "__main__":
    for set_name, set_cases in make_lists().items():
        write_text(LISTS / f"{set_name}.txt", format_list(set_name, set_cases))
