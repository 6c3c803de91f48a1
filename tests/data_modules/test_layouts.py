"""Listing and splitting, without torch."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_modules.layouts import busi
from data_modules.layouts.base import (
    Item,
    list_images,
    mix_categories,
    natural_key,
    random_splits,
    shuffled,
)
from data_modules.layouts.busi import BusiLayout, format_list, make_lists
from data_modules.layouts.lists import read_list
from lightning_samseg.errors import UserError
from tests.fakes import write_busi

LISTS = Path(busi.__file__).parents[1] / "splits" / "busi"
REAL = Path(__file__).parents[2].parent / "shared" / "real_data" / "busi"


def items(counts, **fields):
    return [
        Item(f"{name} ({n})", Path(), category=name, **fields) for name, count in counts.items() for n in range(count)
    ]


def kinds(part):
    return Counter(item.category for item in part)


def test_listing_does_not_import_torch():
    code = "import sys, data_modules, data_modules.layouts.busi, data_modules.layouts.folder\n"
    code += "import data_modules.generated.ultrasound\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


def test_random_split_keeps_categories_in_proportion():
    splits = random_splits(items({"a": 40, "b": 20}), seed=3)
    assert [kinds(part) for part in splits[:3]] == [{"a": 28, "b": 14}, {"a": 4, "b": 2}, {"a": 8, "b": 4}]
    names = [item.case_id for part in splits[:3] for item in part]
    assert len(set(names)) == 60
    for count in range(1, 43):  # every prefix of the labelled order is mixed
        assert abs(kinds(splits.train[:count])["a"] - count * 2 / 3) < 1
    assert splits == random_splits(items({"b": 20, "a": 40}), seed=3)  # order on disk does not matter
    assert splits != random_splits(items({"a": 40, "b": 20}), seed=4)


def test_random_split_never_divides_a_group():
    groups = [Item(f"p{n // 4}_{n}", Path(), group=f"p{n // 4}", category="ab"[n % 2]) for n in range(80)]
    sides = {}
    for part, part_items in zip("tve", random_splits(groups, seed=0)[:3], strict=True):
        for item in part_items:
            sides.setdefault(item.group, set()).add(part)
    assert len(sides) == 20
    assert all(len(parts) == 1 for parts in sides.values())
    assert Counter(next(iter(parts)) for parts in sides.values()) == {"t": 14, "v": 2, "e": 4}


def test_random_split_of_small_categories():
    """8 images have no validation image of their own (0.6875 and 0.8125 are the nearest middles); 24 have two."""
    splits = random_splits(items({"a": 8, "b": 8, "c": 8}), seed=0)
    assert [len(part) for part in splits[:3]] == [17, 2, 5]


def test_random_split_of_too_few():
    assert [len(part) for part in random_splits(items({"a": 5}), 0)[:3]] == [3, 1, 1]
    with pytest.raises(UserError, match="no validation images"):
        random_splits(items({"a": 3}), 0)


def test_mixing_and_ordering():
    merged = mix_categories([items({"a": 6}), items({"b": 2}), []])
    assert [item.category for item in merged] == list("aaabaaab") or kinds(merged[:4]) == {"a": 3, "b": 1}
    assert [item.case_id for item in merged if item.category == "a"] == [f"a ({n})" for n in range(6)]
    assert sorted(["x10", "x9", "a", "x9b"], key=natural_key) == ["a", "x9", "x9b", "x10"]
    assert shuffled(list("abcd"), 0) == shuffled(list("dcba"), 0) != shuffled(list("abcd"), 1)


def test_list_images_skips_what_is_none(tmp_path):
    for name in ("b10.PNG", "b9.jpg", "notes.txt", ".hidden.png"):
        (tmp_path / name).touch()
    assert [path.name for path in list_images(tmp_path)] == ["b9.jpg", "b10.PNG"]


def test_committed_busi_lists_are_what_the_seed_makes():
    lists = make_lists()
    for name, case_ids in lists.items():
        assert (LISTS / f"{name}.txt").read_text(encoding="utf-8") == format_list(name, case_ids)
        assert read_list(LISTS / f"{name}.txt") == case_ids
    composition = {name: Counter(case_id.split()[0] for case_id in case_ids) for name, case_ids in lists.items()}
    assert composition["train"] == {"benign": 306, "malignant": 125}
    assert composition["val"] == {"benign": 43, "malignant": 43}
    assert composition["test"] == {"benign": 88, "malignant": 42}
    everything = lists["train"] + lists["val"] + lists["test"]
    assert set(everything) == {f"benign ({n})" for n in range(1, 438)} | {f"malignant ({n})" for n in range(1, 211)}
    assert len(everything) == 647
    assert sorted(lists["labelled"]) == sorted(lists["train"])
    assert [sum("benign" in name for name in lists["labelled"][:count]) for count in (10, 20)] == [7, 14]


def touch_release(root):
    for category, count in busi.RELEASED.items():
        folder = root / "Dataset_BUSI_with_GT" / category
        folder.mkdir(parents=True)
        for number in range(1, count + 1):
            (folder / f"{category} ({number}).png").touch()
            (folder / f"{category} ({number})_mask.png").touch()
    return root


def test_full_release_is_split_by_the_lists(tmp_path):
    root = touch_release(tmp_path)
    splits = BusiLayout(str(root)).splits()
    assert [len(part) for part in splits] == [431, 86, 130, 0]
    assert [item.case_id for item in splits.train[:10]] == read_list(LISTS / "labelled.txt")[:10]
    (root / "Dataset_BUSI_with_GT" / "benign" / "benign (7).png").unlink()
    with pytest.raises(UserError, match=r"1 of the 647 images .* missing(.|\n)*no benign \(7\)") as caught:
        BusiLayout(str(root)).splits()
    assert "--data.split random" in str(caught.value)
    assert sum(map(len, BusiLayout(str(root), split="random").splits())) == 646


def test_busi_items(tmp_path):
    folder = write_busi(tmp_path, benign=12, malignant=3, normal=2)
    (folder / "benign" / "Thumbs.db").touch()
    layout = BusiLayout(str(tmp_path))
    listed = layout.items()
    assert listed == [item._replace() for item in BusiLayout(str(folder)).items()]  # the folder or its parent
    assert [item.case_id for item in listed[:12]] == [f"benign ({n})" for n in range(1, 13)]  # 2 before 10
    assert [path.name for path in listed[4].masks] == ["benign (5)_mask.png", "benign (5)_mask_1.png"]
    assert kinds(listed) == {"benign": 12, "malignant": 3}
    assert kinds(BusiLayout(str(folder), include_normal=True).items()) == {"benign": 12, "malignant": 3, "normal": 2}


def test_busi_labels(tmp_path):
    folder = write_busi(tmp_path, benign=5, malignant=3, normal=1, size=(40, 48))
    binary, classes = BusiLayout(str(folder), include_normal=True), BusiLayout(str(folder), "category", True)
    assert (binary.class_names, classes.class_names) == (("lesion",), ("benign", "malignant"))
    assert [item.class_id for item in classes.items()] == [1] * 5 + [2] * 3 + [1]
    for one, two in zip(binary.items(), classes.items(), strict=True):
        label = binary.read_label(one, (40, 48))
        expected = np.zeros((40, 48), np.uint8)
        if one.category != "normal":
            expected[10:20, 12:24] = 1
        if one.case_id == "benign (5)":
            expected[30:38, 36:46] = 1
        assert label.dtype == np.uint8
        np.testing.assert_array_equal(label, expected)  # whatever the mode of the mask
        np.testing.assert_array_equal(classes.read_label(two, (40, 48)), expected * two.class_id)
        assert binary.read_image(one).shape == (40, 48, 3)


def test_busi_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"no data folder .*absent for BUSI"):
        BusiLayout(str(tmp_path / "absent")).splits()
    with pytest.raises(UserError, match="No BUSI images found"):
        BusiLayout(str(tmp_path)).splits()
    folder = write_busi(tmp_path, benign=6, malignant=6)
    with pytest.raises(UserError, match="hold no normal images"):
        BusiLayout(str(folder), include_normal=True).splits()
    with pytest.raises(UserError, match="635 of the 647 images"):
        BusiLayout(str(folder)).splits()
    layout = BusiLayout(str(folder), split="random")
    with pytest.raises(
        UserError, match=r"benign \(1\)_mask.png: the mask has another size(.|\n)*50 x 40(.|\n)*48 x 40"
    ):
        layout.read_label(layout.items()[0], (40, 50))
    for name in ("benign (3)", "benign (3)_mask"):
        path = folder / "benign" / f"{name}.PNG"
        path.write_bytes(path.with_suffix(".png").read_bytes())
        if len(list(path.parent.glob(f"{name}.*"))) == 2:  # on a file system that tells them apart
            with pytest.raises(UserError, match=rf"{re.escape(name)}.PNG and {re.escape(name)}.png have the same name"):
                layout.items()
            path.unlink()
    (folder / "benign" / "benign (2)_mask.png").unlink()
    with pytest.raises(UserError, match=r"benign \(2\).png has no mask"):
        layout.items()


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real images")
def test_real_busi_images():
    layout = BusiLayout(str(REAL), split="random", include_normal=True)
    listed = layout.items()
    assert kinds(listed) == {"benign": 20, "malignant": 25, "normal": 25}
    for item in listed:
        image = layout.read_image(item)
        share = layout.read_label(item, image.shape[:2]).mean()
        assert share == 0 if item.category == "normal" else 0.001 < share < 0.6, item.case_id
    two = next(item for item in listed if item.case_id == "benign (25)")
    both = layout.read_label(two, layout.read_image(two).shape[:2])
    parts = [layout.read_label(two._replace(masks=(path,)), both.shape) for path in two.masks]
    assert len(parts) == 2
    assert both.sum() == (parts[0] | parts[1]).sum() > parts[0].sum() > 0
