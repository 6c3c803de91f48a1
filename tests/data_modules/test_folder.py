import numpy as np
import pytest
import torch
from PIL import Image

from data_modules import FolderDataModule
from data_modules.layouts.folder import FolderLayout
from lightning_samseg.errors import UserError
from lightning_samseg.io.images import write_image
from tests.fakes import write_folder, write_mask

NAMES = [f"patient{patient}_{scan}" for patient in range(10) for scan in range(3)]


def module(root, **options):
    return FolderDataModule(str(root), **{"image_size": 32, "eval_batch_size": 50, **options})


def all_masks(data):
    (batch,) = data._once(data.splits.train, "evaluation")
    return batch


def test_binary_by_default(tmp_path):
    data = module(write_folder(tmp_path, NAMES, unlabelled=2), num_labelled=5)
    assert (data.num_classes, data.class_names) == (1, ("foreground",))
    assert [len(part) for part in data.splits] == [21, 3, 6, 2]
    assert [item.case_id for item in data.unlabelled_items[-2:]] == ["extra0", "extra1"]
    assert len(data.unlabelled_items) == 18
    assert set(all_masks(data)["mask"].unique().tolist()) == {0, 1}


@pytest.mark.parametrize(("values", "count"), [((1,), 1), ((255,), 1), ((1, 2), 2), ((1, 2, 5), 5), ((90,), 1)])
def test_masks_tell_what_they_are(tmp_path, values, count):
    data = module(write_folder(tmp_path, NAMES[:6], values=values))
    assert data.num_classes == count
    found = set(all_masks(data)["mask"].unique().tolist())
    assert found == ({0, *values} if count > 1 else {0, 1})


def test_classes_by_name(tmp_path):
    root = write_folder(tmp_path, NAMES[:6], values=(1, 3))
    (root / "classes.yaml").write_text("0: background\n1: nucleus\n2: cell\n3: stroma\n")
    data = module(root)
    assert data.class_names == ("nucleus", "cell", "stroma")
    assert set(all_masks(data)["mask"].unique().tolist()) == {0, 1, 3}
    (root / "classes.yaml").write_text("1: nucleus\n2: cell\n")
    with pytest.raises(UserError, match=r"holds the value 3, which is no class(.|\n)*nucleus, cell"):
        all_masks(module(root))


def test_one_named_class_of_white_masks(tmp_path):
    root = write_folder(tmp_path, NAMES[:6])
    (root / "classes.yaml").write_text("1: polyp\n")
    assert module(root).class_names == ("polyp",)
    assert set(all_masks(module(root))["mask"].unique().tolist()) == {0, 1}


@pytest.mark.parametrize("text", ["- a\n- b", "1: a\n3: b", "", "{", "a: 1"])
def test_malformed_classes(tmp_path, text):
    root = write_folder(tmp_path, NAMES[:6])
    (root / "classes.yaml").write_text(text)
    with pytest.raises(UserError, match=r"classes\.yaml(.|\n)*'1: lesion'"):
        _ = module(root).class_names


def test_mask_modes_and_image_kinds_side_by_side(tmp_path):
    root = write_folder(tmp_path, NAMES[:8])
    square = np.zeros((32, 40), bool)
    square[8:24, 10:30] = True
    for name, mode in zip(NAMES[:6], ("1", "L", "P", "RGB", "RGBA", "LA"), strict=True):
        write_mask(root / "masks" / f"{name}.png", square, mode)
    deep = np.linspace(0, 65535, 32 * 40).reshape(32, 40).astype(np.uint16)
    write_image(root / "images" / f"{NAMES[0]}.png", deep)
    write_image(root / "images" / f"{NAMES[1]}.png", (deep >> 8).astype(np.uint8))
    (root / "images" / f"{NAMES[2]}.png").unlink()
    Image.fromarray((deep >> 8).astype(np.uint8)).save(root / "images" / f"{NAMES[2]}.jpg", quality=95)
    data = module(root, grey=True)
    (batch,) = data._once(data.layout.items()[:6], "evaluation")
    for mask in batch["mask"]:
        assert torch.equal(mask, batch["mask"][0])
    torch.testing.assert_close(batch["image"][0], batch["image"][1], atol=0.006, rtol=0)
    torch.testing.assert_close(batch["image"][0], batch["image"][2], atol=0.03, rtol=0)
    assert {original.dtype.name for original in batch["original"]} == {"uint8"}


def test_unequal_sizes_in_one_batch(tmp_path):
    root = write_folder(tmp_path, NAMES[:6])
    write_image(root / "images" / f"{NAMES[0]}.png", np.zeros((50, 20), np.uint8))
    write_image(root / "masks" / f"{NAMES[0]}.png", np.zeros((50, 20), np.uint8))
    data = module(root, resize="longest_side")
    (batch,) = data._once(data.layout.items(), "evaluation")
    assert batch["image"].shape == (6, 3, 32, 32)
    assert [case.content_size for case in batch["cases"][:2]] == [(32, 13), (26, 32)]
    assert [reference.shape for reference in batch["reference"][:2]] == [(50, 20), (32, 40)]


@pytest.mark.parametrize("pattern", [r"^patient\d+", r"patient(\d+)_"])
def test_no_patient_on_both_sides(tmp_path, pattern):
    splits = module(write_folder(tmp_path, NAMES), group=pattern).splits
    patients = [{item.case_id.split("_")[0] for item in part} for part in splits[:3]]
    assert [len(part) for part in patients] == [7, 1, 2]
    assert len(set.union(*patients)) == 10


def test_lists_decide_where_there_are_any(tmp_path):
    root = write_folder(tmp_path, NAMES)
    (root / "splits").mkdir()
    for part, names in {"train": NAMES[4:2:-1], "val": NAMES[10:11], "test": NAMES[20:25]}.items():
        (root / "splits" / f"{part}.txt").write_text("".join(f"{name}.png\n" for name in names))
    data = module(root, num_labelled=1)
    assert [item.case_id for item in data.labelled_items] == NAMES[4:5]
    assert [len(part) for part in data.splits[:3]] == [2, 1, 5]
    assert len(module(root, split="random").splits.train) == 21
    (root / "splits" / "val.txt").write_text("stranger")
    with pytest.raises(UserError, match=r"1 of the 8 images(.|\n)*no stranger"):
        _ = module(root).splits


def test_mistakes(tmp_path):
    with pytest.raises(UserError, match="no data folder"):
        _ = module(tmp_path / "absent").splits
    with pytest.raises(UserError, match=r"No images found in .*images"):
        _ = module(tmp_path).splits
    with pytest.raises(UserError, match="not a regular expression"):
        module(tmp_path, group="(")
    root = write_folder(tmp_path / "a", NAMES[:6])
    with pytest.raises(UserError, match=r"'scan' does not match the image name 'patient0_0'"):
        _ = module(root, group="scan").splits
    with pytest.raises(UserError, match="no list"):
        _ = module(root, split="lists").splits
    write_image(root / "images" / f"{NAMES[0]}.bmp", np.zeros((32, 40), np.uint8))
    with pytest.raises(UserError, match="have the same name"):
        _ = module(root).splits
    (root / "images" / f"{NAMES[0]}.bmp").unlink()
    for name in NAMES[:6]:
        write_image(root / "masks" / f"{name}.png", np.eye(40, 32, dtype=np.uint8))
    with pytest.raises(UserError, match=r"patient\d_\d.png: the mask has another size"):
        all_masks(module(root))
    (root / "masks" / f"{NAMES[2]}.png").unlink()
    with pytest.raises(UserError, match=r"patient0_2.png has no mask(.|\n)*unlabelled"):
        _ = module(root).splits


def test_a_mask_drawn_on_the_stored_pixels_of_a_turned_picture_is_explained(tmp_path):
    write_folder(tmp_path, ["a"])
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(tmp_path / "images" / "a.png") as image:
        image.save(tmp_path / "images" / "a.png", exif=exif)
    layout = FolderLayout(str(tmp_path))
    item = layout.items()[0]
    with pytest.raises(UserError, match=r"another size(.|\n)*EXIF orientation 6(.|\n)*as viewers show it"):
        layout.read_label(item, layout.read_image(item).shape[:2])
