from pathlib import Path
from types import SimpleNamespace

import pytest

from data_modules import BusiDataModule, FolderDataModule
from data_modules.fingerprint import data_fingerprint, split_name
from data_modules.layouts.base import Item
from tests.fakes import write_busi, write_folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_busi(tmp_path_factory.mktemp("busi") / "Dataset_BUSI_with_GT", benign=12, malignant=8)


def of(root: Path, **settings: object) -> dict[str, str]:
    return BusiDataModule(str(root), split="random", **settings).fingerprint()  # type: ignore[arg-type]


def test_names_the_data_and_the_split(root: Path, tmp_path: Path) -> None:
    first = of(root)
    assert of(root) == first
    assert of(root, num_labelled=3, seed=7, image_size=64) == first  # the same data, the same split
    other = of(root, split_seed=1)
    assert other["data_fingerprint"] == first["data_fingerprint"]
    assert other["split"] != first["split"]
    assert first["split"].startswith("random:")
    elsewhere = write_busi(tmp_path / "elsewhere", benign=12, malignant=8)
    assert of(elsewhere) == first


def test_another_file_is_other_data(root: Path, tmp_path: Path) -> None:
    changed = write_busi(tmp_path / "changed", benign=12, malignant=8)
    image = next(iter(sorted(changed.rglob("benign (3).png"))))
    image.write_bytes(image.read_bytes() + b"\0")
    first, second = of(root), of(changed)
    assert first["data_fingerprint"] != second["data_fingerprint"]
    assert first["split"] == second["split"]


def test_what_masks_mean_is_part_of_the_data(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", [f"s{number}" for number in range(10)], values=(1, 2))

    def of_folder(root: Path, **settings: object) -> dict[str, str]:
        return FolderDataModule(str(root), **settings).fingerprint()  # type: ignore[arg-type]

    classes = of_folder(root)
    assert of_folder(root, masks="indexed") == classes  # what auto has found
    others = [of_folder(root, masks="instances"), of_folder(root, masks="binary", ignore=2), of_folder(root, ignore=2)]
    assert of_folder(root, ignore=1) not in [classes, *others]
    assert len({each["data_fingerprint"] for each in [classes, *others[:2]]}) == 3
    assert others[1] == others[2]
    assert len({each["split"] for each in [classes, *others]}) == 1
    streams = [FolderDataModule(str(root), **settings) for settings in ({}, {"ignore": 2})]
    for data in streams:
        data.trainer = SimpleNamespace(lightning_module=SimpleNamespace(uses_stream=True))  # type: ignore[assignment]
    assert len({data.fingerprint()["data_fingerprint"] for data in streams}) == 2


def test_order_counts_for_the_split_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"12")
    items = [Item("a", tmp_path / "a.png", slice_index=i, num_slices=2) for i in (0, 1)]
    assert data_fingerprint(items) == data_fingerprint(items[::-1]) == data_fingerprint([*items, items[0]])
    assert data_fingerprint(items) != data_fingerprint(items[:1])
    assert split_name("x", train=items, test=[]) != split_name("x", train=items[::-1], test=[])
    assert split_name("x", train=items, test=[]) != split_name("x", train=[], test=items)
