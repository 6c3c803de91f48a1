"""ACDC, cardiac MRI (Bernard et al., TMI 2018), in the h5 layout of SSL4MIS.

``data/slices/patientNNN_frame0F_slice_S.h5`` to train on, ``data/patientNNN_frame0F.h5`` to evaluate; frame01 and
frame02 are the two labelled frames, slices count from 1. Each file holds ``image``, floating point in 0..1 (minimum and
maximum of the volume, not of the slice), and ``label``, 0..3.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np

from data_modules.layouts.base import Item, Layout, Splits, check_root, check_size
from data_modules.layouts.lists import read_list
from lightning_samseg.errors import UserError

LISTS = Path(__file__).parents[1] / "splits" / "acdc"
"""SSL4MIS's lists: 1312 slices of 70 patients to train on, 20 and 40 volumes of 10 and 20 patients to evaluate."""
LIST_NAMES = ("train_slices.list", "val.list", "test.list")
_FIX_FILE = "prepare or copy the file again: python -m lightning_samseg data prepare acdc --source DIR --out DIR"


class AcdcLayout(Layout):
    """ACDC's files and splits; the arguments are those of ``AcdcDataModule``."""

    name = "ACDC"
    class_names = ("RV", "Myo", "LV")
    sliced = True
    scales_volumes = True

    def __init__(self, root: str, split: Literal["auto", "committed", "files"] = "auto") -> None:
        self.root, self.split = Path(root).expanduser(), split
        self._spacing: dict[Path, tuple[float, ...] | None] = {}

    @property
    def lists(self) -> Path:
        """Folder of the list files: the root's own, or the committed ones."""
        own = self.split == "files" or (self.split == "auto" and (self.root / LIST_NAMES[0]).is_file())
        return self.root if own else LISTS

    @property
    def has_test_list(self) -> bool:
        """Whether there is a list of test volumes; without one, the validation volumes are tested."""
        return (self.lists / "test.list").is_file()

    def splits(self) -> Splits:
        """List training slices, and the volumes of validation and test slice by slice.

        Training slices are grouped by patient, patients in the order of their first line, so that the first N are the
        labelled ones. The volumes are opened for their shape and spacing.

        Raises:
            UserError: If a list or a listed file is missing, a patient lies on two sides, or a volume is malformed.
        """
        check_root(self.root, self.name)
        train = self._training_names()
        val = read_list(self.lists / "val.list")
        test = read_list(self.lists / "test.list") if self.has_test_list else val
        self._check_patients(
            {"train_slices.list": train, "val.list": val, "test.list": test if test is not val else []}
        )
        volumes, slices = self.root / "data", self.root / "data" / "slices"
        missing = self._check_present({volumes: [*val, *test], slices: train})
        single = [Item(name, slices / f"{name}.h5", group=patient_of(name)) for name in train]
        whole = ([path for name in names if (path := volumes / f"{name}.h5") not in missing] for names in (val, test))
        return Splits(
            [item for item in single if item.image not in missing],
            *([item for path in paths for item in self._slices_of(path)] for paths in whole),
        )

    def count_slices(self, patients: int) -> int:
        """Training slices of the first ``patients`` patients: 32, 68 and 136 for 1, 3 and 7 in SSL4MIS's list.

        Raises:
            UserError: If there are fewer patients, or no list.
        """
        of_patients = [patient_of(name) for name in self._training_names()]
        order = list(dict.fromkeys(of_patients))
        if not 1 <= patients <= len(order):
            raise UserError(
                f"{patients} labelled patients were asked for, but {self.lists / LIST_NAMES[0]} has {len(order)}.",
                expected=f"a number from 1 to {len(order)}",
                fix="set --data.labelled_patients to such a number, or to null for all",
            )
        return sum(of_patients.count(patient) for patient in order[:patients])

    def read_image(self, item: Item) -> np.ndarray:
        """Read one slice, and nothing else of its file: float32 ``(H, W)`` in 0..1.

        Raises:
            UserError: If the file is damaged or its values are not normalised.
        """
        image = _read(item, "image").astype(np.float32)
        low, high = float(image.min(initial=0)), float(image.max(initial=0))
        if not (low >= -1e-3 and high <= 1.001):  # so that NaN is refused, too
            raise UserError(
                f"{item.image}: the image is not normalised as SSL4MIS's files are.",
                expected="values from 0 to 1, the minimum and maximum of the whole volume",
                found=f"values from {low:g} to {high:g}",
                fix=_FIX_FILE,
            )
        return image

    def read_label(self, item: Item, size: tuple[int, int]) -> np.ndarray:
        """Read the label of one slice: uint8 ``(H, W)``, 0 background, 1 RV, 2 myocardium, 3 LV.

        Raises:
            UserError: If the file is damaged, has no label, or one of another size or with other values.
        """
        label = _read(item, "label")
        check_size(label, size, item.image, item.image)
        return as_class_ids(label, item.image)

    def spacing(self, item: Item) -> tuple[float, ...] | None:
        """Voxel size ``(z, y, x)`` in mm of a listed volume whose file stores it; training slices have none."""
        return self._spacing.get(item.image)

    def _training_names(self) -> list[str]:
        names = read_list(self.lists / LIST_NAMES[0])
        order = {patient: place for place, patient in enumerate(dict.fromkeys(map(patient_of, names)))}
        return sorted(names, key=lambda name: order[patient_of(name)])

    def _slices_of(self, path: Path) -> list[Item]:
        try:
            depth = self._depth_of(path)
        except UserError as error:
            self.complain(error)
            return []
        case = path.stem
        return [Item(case, path, (), "", patient_of(case), 1, index, depth) for index in range(depth)]

    def _depth_of(self, path: Path) -> int:
        with _opened(path) as file:
            shape = _dataset(file, "image", path).shape
            if len(shape) != 3 or shape[0] < 2:
                raise UserError(
                    f"{path} is not a volume of slices.",
                    expected="(slices, height, width) with at least 2 slices: distances are measured in 3-D",
                    found=f"shape {shape}",
                    fix=_FIX_FILE,
                )
            stored = file.get("spacing", file.attrs.get("spacing"))
            self._spacing[path] = None if stored is None else _as_spacing(stored, path)
            return int(shape[0])

    def _check_patients(self, lists: dict[str, list[str]]) -> None:
        where: dict[str, str] = {}
        for name, cases in lists.items():
            for patient in dict.fromkeys(map(patient_of, cases)):
                if patient in where:
                    raise UserError(
                        f"{patient} is in {where[patient]} and in {name} of {self.lists}.",
                        expected="every patient in one list only",
                        fix="mend the lists, or use SSL4MIS's with --data.split committed",
                    )
                where[patient] = name

    def _check_present(self, wanted: dict[Path, list[str]]) -> set[Path]:
        missing: list[Path] = []
        for folder, names in wanted.items():
            there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()  # one look, not 1312
            missing += [folder / f"{name}.h5" for name in dict.fromkeys(names) if f"{name}.h5" not in there]
        fix = "prepare the whole release: python -m lightning_samseg data prepare acdc --source DIR --out DIR; "
        fix += f"or put lists of what is there into {self.root} and set --data.split files"
        if missing and self.problems is None:
            raise UserError(
                f"{len(missing)} of the files that the lists in {self.lists} name are missing.",
                found=f"no {', no '.join(map(str, missing[:2]))}{' and so on' if len(missing) > 2 else ''}",
                fix=fix,
            )
        for path in missing:
            self.complain(UserError(f"{path} is missing.", expected=f"it, as a list in {self.lists} names it", fix=fix))
        return set(missing)


def patient_of(case: str) -> str:
    """The patient of a slice or volume: ``patient099`` of ``patient099_frame01_slice_15``."""
    return case.split("_")[0]


def as_class_ids(label: np.ndarray, path: Path) -> np.ndarray:
    """Turn labels of any type into uint8.

    Raises:
        UserError: If a value is none of 0..3.
    """
    ids = label.astype(np.uint8)
    if (ids != label).any() or ids.max(initial=0) > len(AcdcLayout.class_names):
        raise UserError(
            f"{path}: the label holds values that are no class.",
            expected="0 background, 1 RV, 2 Myo, 3 LV",
            found=", ".join(f"{value:g}" for value in np.unique(label)[:10]),
            fix="use ACDC's own labels (patientNNN_frameFF_gt.nii.gz), not interpolated or renumbered ones",
        )
    return ids


def _read(item: Item, key: str) -> np.ndarray:
    """One slice of one dataset. The file is opened for it alone: no handle outlives a call or crosses into a worker."""
    with _opened(item.image) as file:
        dataset = _dataset(file, key, item.image)
        if dataset.ndim != (2 if item.num_slices == 1 else 3) or item.slice_index >= dataset.shape[0]:
            raise UserError(
                f"{item.image}: {key!r} is not {'a slice' if item.num_slices == 1 else 'a volume like its image'}.",
                expected="(height, width)" if item.num_slices == 1 else f"({item.num_slices}, height, width)",
                found=f"shape {dataset.shape}",
                fix=_FIX_FILE,
            )
        return np.asarray(dataset[()] if item.num_slices == 1 else dataset[item.slice_index])


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with h5py.File(path, "r", locking=False) as file:  # many file systems of clusters have no locks
            yield file
    except (OSError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{path} cannot be read; the file is missing, damaged or no HDF5 file.", found=str(error), fix=_FIX_FILE
        ) from error


def _dataset(file: Any, key: str, path: Path) -> Any:
    dataset = file.get(key)
    if not isinstance(dataset, h5py.Dataset):
        raise UserError(
            f"{path} has no dataset {key!r}.",
            expected="image and label, as in SSL4MIS's files",
            found=", ".join(file) or "an empty file",
            fix=_FIX_FILE,
        )
    return dataset


def _as_spacing(stored: Any, path: Path) -> tuple[float, ...]:
    spacing = tuple(float(value) for value in np.ravel(stored))
    if len(spacing) != 3 or not all(0 < value < np.inf for value in spacing):
        raise UserError(
            f"{path}: the spacing is not a voxel size.",
            expected="three positive numbers (z, y, x) in mm",
            found=str(spacing),
            fix=_FIX_FILE,
        )
    return spacing
