"""RETOUCH, fluid in optical coherence tomography of the retina (Bogunovic et al., TMI 2019).

As released, ``{Cirrus,Spectralis,Topcon}/TRAINnnn/{oct,reference}.mhd`` with raw files, or as ``data prepare retouch``
writes it, ``data/DEVICE_TRAINnnn.h5``. ``python -m data_modules.layouts.retouch`` writes the committed lists again.
"""

from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from data_modules.layouts.base import Item, Layout, Splits, StreamPart, check_root, check_size, random_splits
from data_modules.layouts.lists import list_text, read_list
from data_modules.layouts.retouch_files import CLASSES, Volume, find_volumes
from lightning_samseg.errors import UserError
from lightning_samseg.io.text import write_text

LISTS = Path(__file__).parents[1] / "splits" / "retouch"
LIST_SEED = 2024
RELEASED = {"Cirrus": (1, 24), "Spectralis": (25, 48), "Topcon": (49, 70)}
"""First and last number of the training volumes of each device; the test volumes have no public reference."""


class RetouchLayout(Layout):
    """RETOUCH's volumes and splits; the arguments are those of ``RetouchDataModule``."""

    name = "RETOUCH"
    sliced = True

    def __init__(
        self,
        root: str,
        classes: Literal["types", "fluid"] = "types",
        empty: Literal["keep", "drop"] = "keep",
        split: Literal["auto", "committed", "random"] = "auto",
        split_seed: int = 0,
    ) -> None:
        self.root, self.classes, self.empty, self.split, self.split_seed = root, classes, empty, split, split_seed
        self.class_names = CLASSES if classes == "types" else ("fluid",)

    def splits(self) -> Splits:
        """List B-scans and divide them by volume: the committed lists, or 70/10/20 % of the volumes by device.

        B-scans to train on are items of their own, volume after volume; those to evaluate belong to their volumes.

        Raises:
            UserError: If no volume is there, one is incomplete, a listed one is missing, or a part would be empty.
        """
        lists = self._lists()
        train = [item for name in lists["train"] for item in self._slices(name, keep_empty=self.empty == "keep")]
        single = [item._replace(case_id=f"{item.case_id}_slice_{item.slice_index + 1}", num_slices=1) for item in train]
        val, test = ([item for name in lists[part] for item in self._slices(name)] for part in ("val", "test"))
        return Splits(single, val, test)

    def _lists(self) -> dict[str, list[str]]:
        """Case ids of the volumes of each part."""
        by_case = self.volumes
        lists = {part: read_list(LISTS / f"{part}.txt") for part in ("train", "val", "test")}
        missing = [name for names in lists.values() for name in names if name not in by_case]
        if self.split == "committed" and missing:
            raise UserError(
                f"{len(missing)} of the 70 volumes in the lists of RETOUCH are missing under {self.root}.",
                found=f"no {', no '.join(missing[:3])}{' and so on' if len(missing) > 3 else ''}",
                fix="unpack all three training archives, or use --data.split random",
            )
        if self.split == "random" or missing:
            whole = [Item(name, volume.image, (), volume.device) for name, volume in by_case.items()]
            parts = random_splits(whole, self.split_seed)
            lists = {
                part: [item.case_id for item in items]
                for part, items in zip(("train", "val", "test"), parts[:3], strict=True)
            }
        return lists

    def items(self) -> list[Item]:
        """List all B-scans of all volumes, device by device.

        Raises:
            UserError: If no volume is there, or one is incomplete.
        """
        return [item for name in self.volumes for item in self._slices(name)]

    def stream_sets(self, part: StreamPart = "all") -> dict[str, list[Item]]:
        """All B-scans of each device, or those that show fluid; of all volumes or of those to test.

        Raises:
            UserError: See ``items`` and ``splits``.
        """
        chosen = set(self.volumes if part == "all" else self._lists()["test"])
        sets: dict[str, list[Item]] = {}
        for name, volume in self.volumes.items():
            if name not in chosen:
                continue
            sets.setdefault(volume.device, []).extend(self._slices(name, keep_empty=self.empty == "keep"))
        return sets

    def notes(self) -> list[str]:
        """Say where volumes are missing, headers do not agree, and finding B-scans with fluid takes time."""
        native = [volume for volume in self.volumes.values() if not volume.prepared]
        notes = []
        if self.split == "auto" and len(self.volumes) < sum(last - first + 1 for first, last in RELEASED.values()):
            notes.append(f"{len(self.volumes)} of 70 volumes: the split is random, not that of the committed lists")
        if native and self.empty == "drop":
            notes.append(f"{len(native)} references are read to find fluid; `data prepare retouch` saves that")
        if other := [volume.case_id for volume in native if volume.misplaced]:
            notes.append(
                f"the headers of {len(other)} references, such as {other[0]}, state another place or voxel size than "
                "their images; they are taken as stored"
            )
        return notes

    def read_image(self, item: Item) -> np.ndarray:
        """Read one B-scan, and nothing else of its volume: uint8 or uint16 ``(H, W)``, depth down.

        Raises:
            UserError: If the file is damaged.
        """
        return self._volume(item).read("image", item.slice_index)

    def read_label(self, item: Item, size: tuple[int, int]) -> np.ndarray:
        """Read the reference of one B-scan: uint8 ``(H, W)``, 0 background, 1 IRF, 2 SRF, 3 PED; or 1 for any fluid.

        Raises:
            UserError: If the file is damaged, has another size or other values.
        """
        volume = self._volume(item)
        label = volume.read("label", item.slice_index)
        check_size(label, size, volume.reference, item.image)
        if label.max(initial=0) > len(CLASSES) or label.min(initial=0) < 0:
            raise UserError(
                f"{volume.reference}: B-scan {item.slice_index + 1} holds values that are no class.",
                expected="0 background, 1 IRF, 2 SRF, 3 PED",
                found=", ".join(map(str, np.unique(label)[:10])),
                fix="copy the volume again from the release",
            )
        return (label > 0).astype(np.uint8) if self.classes == "fluid" else label.astype(np.uint8)

    def spacing(self, item: Item) -> tuple[float, ...] | None:
        """Voxel size ``(between B-scans, depth, across)`` in mm."""
        return self._volume(item).spacing

    @cached_property
    def volumes(self) -> dict[str, Volume]:
        """Volumes by case id, such as ``Cirrus_TRAIN001``; their headers have been read, nothing else.

        Raises:
            UserError: If there are none, or a volume is incomplete or damaged.
        """
        root = check_root(self.root, self.name)
        volumes = {volume.case_id: volume for volume in find_volumes(root, self.complain)}
        if not volumes:
            raise UserError(
                f"No RETOUCH volumes found in {root}.",
                expected="Cirrus/TRAIN001/oct.mhd and reference.mhd and so on, or data/Cirrus_TRAIN001.h5",
                found=", ".join(sorted(path.name for path in root.iterdir())[:8]) or "an empty folder",
                fix="point --data.root at the folder that holds Cirrus, Spectralis and Topcon, or at the prepared one",
            )
        return volumes

    def _volume(self, item: Item) -> Volume:
        return self.volumes[item.group]

    def _slices(self, name: str, keep_empty: bool = True) -> list[Item]:
        volume = self.volumes[name]
        kept = range(volume.shape[0]) if keep_empty else np.flatnonzero(volume.fluid_pixels().any(axis=1)).tolist()
        return [Item(name, volume.image, (), volume.device, name, 1, index, volume.shape[0]) for index in kept]


def make_lists(seed: int = LIST_SEED) -> dict[str, list[str]]:
    """Divide the 70 released volumes by device: train (49), val (7) and test (14) case ids."""
    names = [
        Item(f"{device}_TRAIN{number:03d}", Path(), (), device)
        for device, (first, last) in RELEASED.items()
        for number in range(first, last + 1)
    ]
    parts = random_splits(names, seed)
    order = {"train": parts.train, "val": sorted(parts.val), "test": sorted(parts.test)}
    return {part: [item.case_id for item in items] for part, items in order.items()}


def format_list(name: str, case_ids: list[str]) -> str:
    """Give the text of a committed list, with its provenance on top."""
    head = f"RETOUCH, {len(case_ids)} {name} volumes; made by python -m data_modules.layouts.retouch, seed {LIST_SEED}"
    return list_text(head, case_ids)


if __name__ == "__main__":
    for list_name, list_cases in make_lists().items():
        write_text(LISTS / f"{list_name}.txt", format_list(list_name, list_cases))
