from pathlib import Path

import pytest

from data_modules import BusiDataModule
from data_modules.fingerprint import data_fingerprint, split_name
from data_modules.layouts.base import Item
from tests.fakes import write_busi


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


def test_order_counts_for_the_split_alone(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"12")
    items = [Item("a", tmp_path / "a.png", slice_index=i, num_slices=2) for i in (0, 1)]
    assert data_fingerprint(items) == data_fingerprint(items[::-1]) == data_fingerprint([*items, items[0]])
    assert data_fingerprint(items) != data_fingerprint(items[:1])
    assert split_name("x", train=items, test=[]) != split_name("x", train=items[::-1], test=[])
    assert split_name("x", train=items, test=[]) != split_name("x", train=[], test=items)
