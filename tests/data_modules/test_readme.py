"""The data set and the configuration that data_modules/README.md shows: verified, loaded, streamed and trained."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data_modules
from lightning_samseg.__main__ import main
from lightning_samseg.io.images import write_image
from tests.fakes import white

README = (Path(data_modules.__file__).parent / "README.md").read_text(encoding="utf-8")
SECTION = README[README.index("## Adding a data set") :]


def block(language):
    return re.search(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)[1]


def write_isic(root, counts):
    """ISIC 2018's folders with images as JPEG and masks as PNG of 0 and 255."""
    rng = np.random.default_rng(0)
    for part, count in counts.items():
        images, masks = root / f"ISIC2018_Task1-2_{part}_Input", root / f"ISIC2018_Task1_{part}_GroundTruth"
        images.mkdir(parents=True)
        masks.mkdir()
        (images / "ATTRIBUTION.txt").write_text("as in the archive")
        for number in range(count):
            name = f"ISIC_{10000 * len(part) + number:07d}"
            mask = np.zeros((30, 40), bool)
            mask[10:20, 5 + number : 20 + number] = True
            picture = rng.integers(150, 230, (30, 40, 3), dtype=np.uint8) - 90 * mask[..., None]
            Image.fromarray(picture.astype(np.uint8)).save(images / f"{name}.jpg")
            write_image(masks / f"{name}_segmentation.png", (255 * mask).astype(np.uint8))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder with the two files of the README and the data where the configuration looks for them."""
    (tmp_path / "isic.py").write_text(block("python"), encoding="utf-8")
    (tmp_path / "isic.yaml").write_text(block("yaml"), encoding="utf-8")
    write_isic(tmp_path / "data" / "ISIC2018", {"Training": 8, "Validation": 2, "Test": 3})
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "isic", raising=False)
    return tmp_path


def test_one_file_of_about_100_lines():
    assert 60 <= len(block("python").splitlines()) <= 120


def test_verify_and_show(folder, capsys):
    verify = ["data", "verify", "isic.IsicLayout", "--root", "data/ISIC2018"]
    assert all(command in SECTION for command in (" ".join(verify), "data show isic.IsicLayout"))
    assert main(verify) == 0
    assert "13 images and slices, nothing wrong" in capsys.readouterr().out
    show = ["data", "show", "isic.IsicLayout", "--root", "data/ISIC2018", "--out", "sheet.png", "--count", "3"]
    assert main(show) == 0
    assert (folder / "sheet.png").is_file()
    masks = folder / "data" / "ISIC2018" / "ISIC2018_Task1_Training_GroundTruth"
    (masks / "ISIC_0080000_segmentation.png").unlink()
    (masks / "ISIC_0080001_segmentation.png").rename(masks / "ISIC_0099999_segmentation.png")
    capsys.readouterr()
    assert main(verify) == 2
    shown = capsys.readouterr().out
    assert shown.count("has no mask") == 2
    assert "ISIC_0099999_segmentation.png has no image" in shown


def test_loaders_and_stream(folder):
    import isic  # type: ignore[import-not-found]

    data = isic.IsicDataModule("data/ISIC2018", image_size=32, num_labelled=3)
    assert [len(part) for part in data.splits] == [8, 2, 3, 0]
    assert (len(data.labelled_items), len(data.unlabelled_items)) == (3, 5)
    (batch,) = data.test_dataloader()
    assert batch["image"].shape == (3, 3, 32, 32)
    for case, reference in zip(batch["cases"], batch["reference"], strict=True):
        stem = Path(case.source).stem
        mask = Path("data/ISIC2018/ISIC2018_Task1_Test_GroundTruth") / f"{stem}_segmentation.png"
        np.testing.assert_array_equal(reference, white(mask))
    stream = list(data.stream_dataloader(start=0))
    assert [item["position"] for item in stream] == list(range(13))
    assert all(item["set_name"] == "ISIC 2018" and item["reference"].any() for item in stream)
    random = isic.IsicDataModule("data/ISIC2018", split="random", image_size=32)
    assert [len(part) for part in random.splits] == [9, 1, 3, 0]


def test_a_missing_part_is_one_message(folder, capsys):
    for path in (folder / "data" / "ISIC2018").glob("*Validation_Input/*.jpg"):
        path.unlink()
    assert main(["fit", "--config", "isic.yaml", "--model.sam.backbone", "tiny"]) == 2
    assert "No images of the official part Validation" in capsys.readouterr().err


def test_the_configuration_trains(folder):
    small = {
        "trainer.accelerator": "cpu",
        "trainer.max_steps": "2",
        "trainer.val_check_interval": "2",
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        "model.sam.backbone": "tiny",
        "data.image_size": "32",
        "data.num_labelled": "3",
        "data.num_workers": "0",
        "data.augment": "none",
    }
    options = [part for name, value in small.items() for part in (f"--{name}", value)]
    assert main(["fit", "--config", "isic.yaml", *options]) == 0
    assert list((folder / "runs" / "isic").rglob("*.ckpt"))
