"""What masks mean in every data set that reads them from files, and how names of masks and images pair."""

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from PIL import Image

from data_modules import BusiDataModule, FolderDataModule, GlasDataModule, PolypDataModule
from data_modules.catalogue import open_layout
from data_modules.layouts.base import Item, Layout, Splits
from data_modules.layouts.folder import FolderLayout
from data_modules.online import OnlineDataset, Place
from data_modules.sheet import GREY, choose, contact_sheet
from data_modules.verify import verify
from lightning_samseg.cli import data as data_cli
from lightning_samseg.errors import UserError
from lightning_samseg.io.images import write_image
from lightning_samseg.methods import UNet
from lightning_samseg.types import IGNORED
from tests.fakes import write_busi, write_folder, write_glas, write_mask, write_nifti, write_polyp

NAMES = [f"scan{number}" for number in range(10)]


def module(root, **options):
    return FolderDataModule(str(root), **{"image_size": 32, "eval_batch_size": 50, "cache_gb": 0, **options})


def write_void(root, names=NAMES):
    """Squares of 1 on 0 with a rim of 255."""
    write_folder(root, names, values=(1,))
    for name in names:
        mask = np.zeros((32, 40), np.uint8)
        mask[6:20, 8:24], mask[9:17, 11:21] = 255, 1
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    return root


def problems(root, name="folder", **options):
    return verify(*open_layout(name, root, **options)).problems


def test_void_rims_are_refused_in_fit_and_verify_with_the_option_that_decides(tmp_path):
    root = write_void(tmp_path)
    with pytest.raises(UserError, match=r"0, 1, 255(.|\n)*--data\.ignore 255"):
        Trainer(accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False).fit(UNet(), module(root))
    assert len(problems(root)) == 1
    assert problems(root, ignore=255) == []
    assert problems(root, masks="soft") == []


def test_ignored_pixels_reach_batches_and_streams(tmp_path):
    data = module(write_void(tmp_path), ignore=255, resize="longest_side")
    assert data.class_names == ("foreground",)
    batch = next(iter(data.test_dataloader()))
    reference = batch["reference"][0]
    assert {value: int((reference == value).sum()) for value in (1, IGNORED)} == {1: 80, IGNORED: 14 * 16 - 80}
    assert batch["mask"].dtype == torch.int64
    assert set(batch["mask"].unique().tolist()) == {0, 1, IGNORED}
    assert not batch["mask"][batch["padding"]].any()
    item = next(iter(data.stream_dataloader(start=0)))
    np.testing.assert_array_equal(item["reference"], reference)


def test_the_class_of_a_stream_keeps_what_is_ignored(tmp_path):
    root = write_folder(tmp_path, NAMES, values=(1, 2, 255))
    layout = FolderLayout(str(root), ignore=255)
    places = [Place("folder", item) for item in layout.items()]
    for class_id, expected in ((None, (1, 1)), (1, (1, 0)), (2, (0, 1))):
        reference = OnlineDataset(layout, places, class_id)[0]["reference"]
        assert tuple(reference[8, [5, 14]]) == expected
        assert (reference[5:15, 21:28] == IGNORED).all()


def test_ignored_areas_are_drawn_grey_and_are_no_foreground(tmp_path):
    root = write_void(tmp_path)
    layout = FolderLayout(str(root), ignore=255)
    sheet = contact_sheet(layout, choose(layout, 4))
    assert (sheet == GREY).all(axis=2).any()
    alone = np.zeros((32, 40), np.uint8)
    alone[3:9, 3:9] = 255
    Image.fromarray(alone).save(root / "masks" / "scan3.png")
    (problem,) = problems(root, ignore=255)
    assert "scan3.png: the label is empty" in problem


def test_classes_that_come_late_are_classes(tmp_path):
    names = [f"a{number:02d}" for number in range(56)]
    root = write_folder(tmp_path, names, values=(1,))
    for name in names[50:]:
        mask = np.zeros((32, 40), np.uint8)
        mask[5:15, 3:10], mask[20:30, 20:35] = 1, 2
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    data = module(root)
    assert data.class_names == ("class 1", "class 2")
    (batch,) = data._once(data.layout.items()[50:], "evaluation")
    assert all(set(np.unique(reference)) == {0, 1, 2} for reference in batch["reference"])
    assert problems(root) == []
    assert module(root, num_labelled=2).num_classes == 2  # whatever is labelled


def test_soft_masks_are_cut_at_half_of_their_range(tmp_path):
    root = write_folder(tmp_path, NAMES)
    edge = np.clip((10 - np.hypot(*(np.mgrid[:32, :40] - 16))) / 6 + 0.5, 0, 1)
    deep = np.rint(65535 * edge).astype(np.uint16)
    for name in NAMES:
        write_image(root / "masks" / f"{name}.png", deep)
    assert problems(root) == []
    (batch,) = module(root)._once(module(root).layout.items(), "evaluation")
    for reference in batch["reference"]:
        np.testing.assert_array_equal(reference, deep >= 32768)


def test_soft_volumes_are_cut_at_half_and_fractions_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    edge = np.clip((10 - np.hypot(*(np.mgrid[:32, :40] - 16))) / 6 + 0.5, 0, 1).astype(np.float32)
    for number in range(5):
        for folder, array in (("images", rng.random((3, 32, 40), np.float32)), ("masks", np.stack([edge] * 3))):
            (tmp_path / folder).mkdir(exist_ok=True)
            write_nifti(tmp_path / folder / f"v{number}.nii.gz", array)
    data = module(tmp_path)
    (batch,) = data._once(data.layout.items()[:3], "evaluation")
    np.testing.assert_array_equal(batch["reference"][1], edge > 0.5)
    write_nifti(tmp_path / "masks" / "v3.nii.gz", np.stack([edge] * 3) * 3)
    with pytest.raises(UserError, match=r"fit no rule(.|\n)*v3\.nii\.gz"):
        _ = module(tmp_path).class_names
    signed = np.where(edge > 0.5, 1, -1).astype(np.int16)
    write_nifti(tmp_path / "masks" / "v3.nii.gz", np.stack([signed] * 3))
    with pytest.raises(UserError, match=r"fit no rule(.|\n)*--data\.ignore -1"):
        _ = module(tmp_path).class_names


def test_numbered_objects_are_one_class_on_request(tmp_path):
    root = write_folder(tmp_path, NAMES)
    for count, name in enumerate(NAMES, start=1):
        mask = np.zeros((32, 40), np.uint16)
        for number in range(1, count + 1):
            row, column = divmod(number - 1, 5)
            mask[2 + 8 * row : 8 + 8 * row, 1 + 8 * column : 7 + 8 * column] = number
        write_image(root / "masks" / f"{name}.png", mask)
    with pytest.raises(UserError, match=r"class ids or numbers of objects(.|\n)*--data\.masks instances"):
        _ = module(root).class_names
    data = module(root, masks="instances")
    assert data.class_names == ("foreground",)
    items = list(data.stream_dataloader(start=0))
    counts = {item["cases"][0].case_id: int(item["instances"].max()) for item in items}
    assert counts == dict(zip(NAMES, range(1, 11), strict=True))
    assert all(set(np.unique(item["reference"])) == {0, 1} for item in items)
    assert problems(root, masks="instances") == []
    assert module(root, masks="indexed").num_classes == 10


WRITERS = {
    "busi": (lambda root: write_busi(root), BusiDataModule, "benign (3)_mask.png", {"split": "random"}),
    "polyp": (lambda root: write_polyp(root, train=20, test={"Kvasir": 3}), PolypDataModule, "23.png", {}),
    "glas": (lambda root: write_glas(root, train=12), GlasDataModule, "train_3_anno.bmp", {}),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("spoilt", ["void", "classes", "colours"])
def test_releases_refuse_what_is_not_theirs_in_fit_too(tmp_path, name, spoilt):
    write, kind, file, options = WRITERS[name]
    root = write(tmp_path)
    (path,) = [path for path in tmp_path.rglob(file) if "image" not in path.parts]
    with Image.open(path) as image:
        inside = np.asarray(image.convert("L")) > 0
    values = inside.astype(np.uint8) * np.uint8(85 if spoilt == "classes" else 1)
    values[:4, :9], values[-4:, :9] = (255, 170) if spoilt == "classes" else (255, 255)
    if spoilt == "colours":
        values = np.stack([values * 0, (values == 1) * 255, (values == 255) * 255], axis=2).astype(np.uint8)
    Image.fromarray(values).save(path)
    (problem,) = problems(root, name)
    assert path.name in problem
    assert "is not binary" in problem or "in colour" in problem or name == "glas"
    assert "--data" not in problem  # these data sets have no such options
    with pytest.raises(UserError, match=path.name.replace("(", r"\(").replace(")", r"\)")):
        kind(str(root), image_size=32, **options).setup("fit")


def test_labels_of_a_layout_that_ignores_nothing_hold_no_255(tmp_path):
    class White(Layout):
        name, class_names = "white", ("lesion",)

        def splits(self):
            return Splits([Item("a", tmp_path / "a.png")], [], [])

        def read_label(self, item, size):
            return np.full(size, 255, np.uint8)

    write_image(tmp_path / "a.png", np.eye(9, dtype=np.uint8))
    with pytest.raises(UserError, match=r"a\.png: its label holds 255(.|\n)*white ignores nothing(.|\n)*White"):
        _ = OnlineDataset(White(), [Place("white", White().items()[0])])[0]
    assert "its label holds 255" in verify(White()).problems[0]
    White.ignore = 255
    assert (OnlineDataset(White(), [Place("white", White().items()[0])])[0]["reference"] == IGNORED).all()


def test_a_layout_of_ones_own_may_have_classes_and_ignore(tmp_path):
    class Own(Layout):
        name, class_names, masks, ignore = "own", ("a", "b"), "indexed", 255

        def splits(self):
            return Splits([Item("x", tmp_path / "x.png", (tmp_path / "m.png",))], [], [])

    write_image(tmp_path / "x.png", np.zeros((3, 4), np.uint8))
    values = np.array([[0, 1, 2, 255]] * 3, np.uint8)
    write_image(tmp_path / "m.png", values)
    np.testing.assert_array_equal(Own().read_label(Own().items()[0], (3, 4)), values)
    write_image(tmp_path / "m.png", values + 1)
    with pytest.raises(UserError, match=r"m\.png holds the value 3, which is no class(.|\n)*a, b"):
        Own().read_label(Own().items()[0], (3, 4))


# Names ----------------------------------------------------------------------------------------------------------------


def renamed(root, old, new):
    for path in (root / "masks").iterdir():
        path.rename(path.with_name(path.name.replace(old, new)))


def test_masks_with_a_suffix_are_hinted_at_and_read_by_option(tmp_path):
    root = write_folder(tmp_path, NAMES)
    before = module(root).layout.items()
    renamed(root, ".png", "_mask.png")
    (problem,) = problems(root)
    assert "scan0 and scan0_mask" in problem
    assert "what to do: set --data.mask_suffix _mask" in problem
    assert problems(root, mask_suffix="_mask") == []
    after = module(root, mask_suffix="_mask").layout.items()
    assert [item.case_id for item in after] == [item.case_id for item in before]
    write_mask(root / "masks" / "notes.png", np.eye(4, dtype=bool), "L")
    (problem,) = problems(root, mask_suffix="_mask")
    assert "notes.png is no mask: its name does not end with _mask" in problem
    assert len(module(root, mask_suffix="_mask").layout.items()) == 10


@pytest.mark.parametrize(
    ("folder", "old", "new", "hint"),
    [
        ("masks", "scan", "label_scan", "take label_ out of the names of the masks"),
        ("images", ".png", "_0000.png", "take _0000 out of the names of the images"),
        ("masks", "scan", "other", "give each mask the name of its image"),
    ],
)
def test_other_differences_of_names_are_said(tmp_path, folder, old, new, hint):
    root = write_folder(tmp_path, NAMES)
    for path in (root / folder).iterdir():
        path.rename(path.with_name(path.name.replace(old, new)))
    with pytest.raises(UserError, match=hint):
        module(root).layout.items()


def test_folders_inside_are_refused_or_read_as_told(tmp_path):
    root = write_folder(tmp_path, NAMES)
    for folder in ("images", "masks"):
        for number in (1, 2):
            inside = root / folder / f"patient {number}"
            inside.mkdir()
            for name in NAMES[5 * number - 5 : 5 * number]:
                (root / folder / f"{name}.png").rename(inside / f"{name[4:]}.png")
    (problem,) = problems(root)
    assert "images has folders of its own with images, such as patient" in problem
    assert "--data.subfolders true" in problem
    assert problems(root, subfolders=True) == []
    layout = FolderLayout(str(root), subfolders=True, group="^[^/]+")
    assert [item.case_id for item in layout.items()][:2] == ["patient 1/0", "patient 1/1"]
    assert {item.group for item in layout.items()} == {"patient 1", "patient 2"}
    with pytest.raises(UserError, match="No images found"):
        FolderLayout(str(root), subfolders=False).items()
    arguments = ["--root", str(root), "--subfolders", "true"]
    assert data_cli.main(["split", *arguments]) == 0
    splits = module(root, subfolders=True).splits
    assert sorted(item.case_id for part in splits[:3] for item in part) == [item.case_id for item in layout.items()]


def test_upper_case_endings_and_jpeg_2000(tmp_path):
    root = write_folder(tmp_path, NAMES)
    for number, ending in enumerate(("PNG", "jp2", "JP2", "Jpg", "TIF")):
        for folder in ("images", "masks"):
            path = root / folder / f"scan{number}.png"
            image = Image.open(path)
            image.load()
            path.unlink()
            format = {"jpg": "JPEG", "tif": "TIFF", "png": "PNG", "jp2": "JPEG2000"}[ending.lower()]
            image.save(root / folder / f"scan{number}.{ending}", format=format)
    assert problems(root) == []
    (batch,) = module(root)._once(module(root).layout.items(), "evaluation")
    assert [int(reference.sum()) for reference in batch["reference"]] == [70] * 10
    busi = write_busi(tmp_path / "busi")
    for path in list(busi.rglob("*.png")):
        path.rename(path.with_suffix(".PNG"))
    assert problems(busi, "busi") == []


def test_verify_show_and_split_take_the_options_of_fit(tmp_path, capsys):
    root = write_void(tmp_path / "data")
    assert data_cli.main(["verify", "folder", "--root", str(root)]) == 2
    assert data_cli.main(["verify", "folder", "--root", str(root), "--data.ignore", "255", "--group", r"^scan\d"]) == 0
    out = capsys.readouterr().out
    assert "note: masks: one level is the foreground, 255 is ignored" in out
    sheet = str(tmp_path / "sheet.png")
    assert data_cli.main(["show", "folder", "--root", str(root), "--ignore", "255", "--out", sheet]) == 0
    busi = write_busi(tmp_path / "busi")
    assert data_cli.main(["verify", "busi", "--root", str(busi), "--classes", "category"]) == 0
    for options, message in (
        (["--masks", "grey"], r"--masks grey(.|\n)*auto, binary, soft, indexed, instances"),
        (["--classes", "lesion"], "folder has no option --classes"),
        (["--subfolders", "maybe"], "true or false"),
    ):
        with pytest.raises(UserError, match=message):
            data_cli.main(["verify", "folder", "--root", str(root), *options])
    with pytest.raises(UserError, match=r"--classes organ(.|\n)*lesion, category"):
        data_cli.main(["verify", "busi", "--root", str(busi), "--classes", "organ"])
