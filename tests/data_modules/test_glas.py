"""GlaS: BMP with numbered glands and Grade.csv as released, and PNG copies without."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_modules import GlasDataModule
from data_modules.generated.cells import write_demo_glas
from data_modules.layouts.glas import LISTS, RELEASED, GlasLayout, format_list, make_lists
from data_modules.layouts.lists import read_list
from lightning_samseg.errors import UserError
from tests.fakes import write_glas

REAL = Path(__file__).parents[2].parent / "shared" / "real_data" / "glas"


def names(items):
    return [item.case_id for item in items]


def test_official_parts(tmp_path):
    folder = write_glas(tmp_path, train=20, test_a=3, test_b=2)
    layout = GlasLayout(str(tmp_path))
    splits = layout.splits()
    assert [len(part) for part in splits] == [18, 2, 5, 0]
    assert names(splits.test) == ["testA_1", "testA_2", "testA_3", "testB_1", "testB_2"]
    assert all(name.startswith("train") for name in names(splits.train) + names(splits.val))
    assert GlasLayout(str(folder)).splits() == splits  # the folder itself or the one above
    assert layout.notes() == []


def test_committed_lists_are_what_the_names_say(tmp_path):
    for part, count in RELEASED.items():
        for number in range(1, count + 1):
            (tmp_path / f"{part}_{number}.bmp").touch()
            (tmp_path / f"{part}_{number}_anno.bmp").touch()
    splits = GlasLayout(str(tmp_path)).splits()
    lists = make_lists()
    assert [names(splits.train), names(splits.val), names(splits.test)] == [
        lists["labelled"],
        lists["val"],
        lists["test"],
    ]
    assert {name: len(case_ids) for name, case_ids in lists.items()} == {
        "train": 77,
        "val": 8,
        "test": 80,
        "labelled": 77,
    }
    for name, case_ids in lists.items():
        assert (LISTS / f"{name}.txt").read_text(encoding="utf-8") == format_list(name, case_ids)
        assert read_list(LISTS / f"{name}.txt") == case_ids
    assert sorted(lists["train"]) == sorted(lists["labelled"])


def test_semantic_and_instance_masks(tmp_path):
    folder = write_glas(tmp_path)
    layout = GlasLayout(str(folder))
    item = layout.items()[0]
    numbers = np.asarray(Image.open(item.masks[0]))
    np.testing.assert_array_equal(layout.read_label(item, (30, 44)), (numbers > 0).astype(np.uint8))
    instances = layout.read_instances(item, (30, 44))
    np.testing.assert_array_equal(instances, numbers)
    assert instances.dtype == np.int32
    assert layout.read_image(item).shape == (30, 44, 3)


def test_png_copies_and_binary_annotations(tmp_path):
    folder = write_glas(tmp_path, grades=False)
    for path in sorted(folder.glob("*.bmp")):
        image = Image.open(path)
        if path.stem.endswith("_anno") and "train" in path.stem:
            high = 1 if path.stem == "train_2_anno" else 255
            image = Image.fromarray((np.asarray(image) > 0).astype(np.uint8) * high)
        image.save(path.with_suffix(".png"))
        path.unlink()
    layout = GlasLayout(str(folder))
    items = {item.case_id: item for item in layout.items()}
    for name in ("train_1", "train_2"):  # two pieces, of which one is two glands that touch
        assert layout.read_label(items[name], (30, 44)).sum() == 81 + 198 + 280
        assert layout.read_instances(items[name], (30, 44)) is None
    assert layout.read_instances(items["testA_1"], (30, 44)).max() == 3
    single = np.zeros((30, 44), np.uint8)
    single[4:9, 4:9] = 1
    Image.fromarray(single).save(items["train_3"].masks[0])
    np.testing.assert_array_equal(layout.read_instances(items["train_3"], (30, 44)), single)


def test_grades_and_patients(tmp_path):
    folder = write_glas(tmp_path, train=20, test_a=4, test_b=2)
    layout = GlasLayout(str(folder))
    assert {name: len(items) for name, items in layout.stream_sets().items()} == {"benign": 13, "malignant": 13}
    assert {item.case_id: item.group for item in layout.items()}["train_7"] == "patient 2"
    tested = layout.stream_sets("test")
    assert {item.case_id for items in tested.values() for item in items} == {
        *(f"testA_{number}" for number in range(1, 5)),
        *(f"testB_{number}" for number in range(1, 3)),
    }
    assert tested.keys() == {"benign", "malignant"}
    malignant = GlasLayout(str(folder), grade="malignant")
    assert [len(part) for part in malignant.splits()] == [9, 1, 3, 0]
    assert {item.category for item in malignant.items()} == {"malignant"}
    sides = {}
    for part, items in zip("tve", GlasLayout(str(folder), split="random").splits()[:3], strict=True):
        for item in items:
            sides.setdefault(item.group, set()).add(part)
    assert len(sides) == 5
    assert all(len(parts) == 1 for parts in sides.values())


def test_without_grades_there_is_one_stream(tmp_path, capsys):
    folder = write_glas(tmp_path, grades=False)
    data = GlasDataModule(str(folder), image_size=32)
    items = list(data.stream_dataloader())
    assert {item["set_name"] for item in items} == {"GlaS"}
    assert len(items) == 13
    assert "no Grade.csv: grades and patients are unknown" in GlasLayout(str(folder)).notes()[0]
    with pytest.raises(UserError, match=r"no Grade\.csv"):
        GlasLayout(str(folder), grade="benign").items()


def test_stream_items_tell_glands_apart(tmp_path):
    data = GlasDataModule(str(write_glas(tmp_path)), image_size=32, stream_sets=["malignant"])
    item = next(iter(data.stream_dataloader()))
    assert item["instances"].dtype == np.int32
    assert set(np.unique(item["instances"])) == {0, 1, 2, 3}
    np.testing.assert_array_equal(item["reference"], item["instances"] > 0)
    assert next(iter(data.test_dataloader()))["mask"].max() == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "an empty file"),
        ("name,patient\ntrain_1,3\n", "found: name, patient"),
        ("name,patient ID,grade (GlaS)\ntrain_1,3,normal\n", "the line train_1, 3, normal"),
        ("name,patient ID,grade (GlaS)\ntrain_1,3\n", "the line train_1, 3"),
        ("name,patient ID,grade (GlaS)\ntrain_1,3,benign\n", r"has no line for (test|train)"),
        (b"\xff\xfe\x00", "table of grades"),
    ],
)
def test_malformed_grades(tmp_path, text, message):
    folder = write_glas(tmp_path)
    (folder / "Grade.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=message) as raised:
        GlasLayout(str(folder)).items()
    assert "Grade.csv" in str(raised.value)


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match=r"no data folder .* for GlaS"):
        GlasLayout(str(tmp_path / "absent")).items()
    with pytest.raises(UserError, match="No images of GlaS found"):
        GlasLayout(str(tmp_path)).items()
    folder = write_glas(tmp_path, train=3)
    with pytest.raises(UserError, match="official parts need more images"):
        GlasLayout(str(folder)).splits()
    (folder / "train_2_anno.bmp").rename(folder / "train_9_anno.bmp")
    with pytest.raises(UserError, match=r"train_2\.bmp has no annotation"):
        GlasLayout(str(folder)).items()
    Image.fromarray(np.zeros((30, 44), np.uint8)).save(folder / "train_1.png")
    with pytest.raises(UserError, match="are the same image"):
        GlasLayout(str(folder)).items()


def test_demo(tmp_path):
    folder = write_demo_glas(tmp_path, train=10, test_a=1, test_b=1)
    layout = GlasLayout(str(tmp_path))
    assert layout.folder == folder
    assert {name: len(items) for name, items in layout.stream_sets().items()} == {"benign": 7, "malignant": 5}
    for item in layout.items()[:2]:
        assert layout.read_image(item).shape == (522, 775, 3)
        numbers = layout.read_instances(item, (522, 775))
        assert set(np.unique(numbers)) == set(range(numbers.max() + 1))
        assert numbers.max() >= 2


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the real images")
def test_real_glands():
    data = GlasDataModule(str(REAL), image_size=64)
    assert [len(part) for part in data.splits] == [13, 1, 14, 0]
    for item in data.stream_dataloader():
        assert item["original"].shape[:2] == item["reference"].shape
        assert 0.05 < item["reference"].mean() < 0.95
        assert "instances" not in item
