"""Inputs on which users found the program wrong, made anew and given to the commands that failed: a test a report.

The numbers are those of the reports. What a report needs beside the command line is tested where the rule is; such a
test is named in a comment. A new report gets a test here, with the smallest input that shows it.
"""

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pytest
import tifffile
import torch
import yaml
from PIL import Image

from data_modules import FolderDataModule
from data_modules.layouts.folder import FolderLayout
from lightning_samseg.__main__ import main
from lightning_samseg.io.images import read_image
from lightning_samseg.io.tables import read_table
from tests.disks import disk, fill, make_read_only
from tests.fakes import write_folder
from tests.predicting import trained, unet

NAMES = [f"s{number:02d}" for number in range(10)]
LATIN_1 = os.fsdecode("größe".encode("latin-1"))
Screen = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    data = FolderDataModule(str(write_folder(folder / "data", NAMES)), image_size=32, labelled_batch_size=2)
    return trained(folder, unet(), data)[0]


def verify(root: Path, *options: str) -> int:
    return main(["data", "verify", "folder", "--root", str(root), *options])


def predict(checkpoint: Path, source: Path, out: Path, *options: str) -> int:
    return main(["predict", "--ckpt_path", str(checkpoint), "--input", str(source), "--output", str(out), *options])


def fit(root: Path, run: Path, *options: str) -> int:
    """Train a small network for a step."""
    config = {
        "trainer": {"accelerator": "cpu", "max_steps": 1, "enable_progress_bar": False, "enable_model_summary": False},
        "model": {
            "class_path": "lightning_samseg.methods.UNet",
            "init_args": {"network": {"name": "smp/unet/timm-mobilenetv3_small_minimal_100"}},
        },
        "data": {
            "class_path": "data_modules.FolderDataModule",
            "init_args": {"root": str(root), "image_size": 32, "labelled_batch_size": 2},
        },
    }
    path = root.parent / "fit.yaml"
    path.write_text(yaml.safe_dump(config))
    return main(["fit", "--config", str(path), "--trainer.default_root_dir", str(run), *options])


def write_masks(root: Path, mask: np.ndarray, count: int = 10, first: int = 0) -> Path:
    """Images with a mask each, the same for all."""
    rng = np.random.default_rng(first)
    for number in range(first, first + count):
        for name, values in (("images", rng.integers(0, 255, mask.shape, np.uint8)), ("masks", mask)):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(root / name / f"s{number:02d}.png")
    return root


def square(value: int, dtype: Any = np.uint8) -> np.ndarray:
    mask = np.zeros((40, 40), dtype)
    mask[10:30, 10:30] = value
    return mask


# Masks; their rules: tests/io/test_masks.py


def test_01_void_rims(tmp_path: Path, capsys: Screen) -> None:
    mask = square(255)
    mask[12:28, 12:28] = 1
    root = write_masks(tmp_path, mask)
    assert verify(root) == 2
    assert "values 0, 1, 255" in (said := capsys.readouterr().out)
    assert "--data.ignore 255" in said
    assert fit(root, tmp_path / "run") == 2
    assert "--data.ignore 255" in capsys.readouterr().err
    assert verify(root, "--ignore", "255") == 0


def test_02_masks_stored_flipped(tmp_path: Path) -> None:  # all 48 ways: tests/io/test_alignment.py
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    flipped = affine.copy()
    flipped[0, 0], flipped[0, 3] = -1, 39
    for number in range(5):
        image = np.random.default_rng(number).integers(1, 200, (40, 30, 3)).astype(np.int16)
        mask = np.zeros(image.shape, np.uint8)
        mask[5:15, 5:25] = 1
        nibabel.save(nibabel.Nifti1Image(image, affine), tmp_path / "images" / f"c{number}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask[::-1], flipped), tmp_path / "masks" / f"c{number}.nii.gz")
    assert verify(tmp_path) == 0
    layout = FolderLayout(str(tmp_path))
    np.testing.assert_array_equal(layout.read_label(layout.items()[0], (30, 40)), mask[:, :, 0].T)


def test_04_pictures_that_are_turned_when_shown(tmp_path: Path, checkpoint: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    root = write_masks(tmp_path / "data", square(255), 6)
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 255, (5, 5, 3), np.uint8)).resize((40, 40))
    upright.save(root / "images" / "s00.png")
    for path in (root / "images").glob("*.png"):
        path.unlink()
        upright.rotate(90).save(path.with_suffix(".jpg"), exif=exif, quality=100, subsampling=0)
    layout = FolderLayout(str(root))
    shown = layout.read_image(layout.items()[0]).astype(int)
    assert np.abs(shown - np.asarray(upright)).mean() < 2
    assert predict(checkpoint, root / "images", tmp_path / "out") == 0


def test_05_a_class_that_first_occurs_after_50_masks(tmp_path: Path, capsys: Screen) -> None:
    root = write_masks(tmp_path, square(1), 51)
    mask = square(1)
    mask[:5] = 2
    write_masks(root, mask, 5, first=51)
    assert verify(root) == 0
    assert "class ids 1..2" in capsys.readouterr().out
    assert FolderLayout(str(root)).class_names == ("class 1", "class 2")


def test_06_soft_masks_of_16_bits(tmp_path: Path) -> None:
    edge = np.interp(np.arange(40), [5, 15, 25, 35], [0, 65535, 65535, 0])
    mask = np.minimum.outer(edge, edge).astype(np.uint16)
    root = write_masks(tmp_path, mask)
    assert verify(root) == 0
    layout = FolderLayout(str(root))
    np.testing.assert_array_equal(layout.read_label(layout.items()[0], (40, 40)), mask > 65535 / 2)


def test_14_masks_with_a_suffix(tmp_path: Path, capsys: Screen) -> None:
    root = write_masks(tmp_path, square(255))
    for path in (root / "masks").iterdir():
        path.rename(path.with_stem(f"{path.stem}_mask"))
    assert verify(root) == 2
    assert "set --data.mask_suffix _mask" in capsys.readouterr().out
    assert verify(root, "--mask_suffix", "_mask") == 0


# Pictures and volumes; every kind: tests/io/test_tiff.py, test_images_formats.py, test_file_kinds.py, test_nifti.py


def test_08_pictures_of_any_kind(tmp_path: Path, checkpoint: Path, capsys: Screen) -> None:
    source = tmp_path / "in"
    source.mkdir()
    grey = np.random.default_rng(0).integers(20, 200, (6, 8), np.uint8).repeat(6, 0).repeat(6, 1)
    colours = np.stack([grey, grey // 2, grey // 4], 2)
    Image.fromarray(colours).save(source / "reference.png")  # not grey: a network in colour answers to grey otherwise
    deep = colours.astype(np.uint16) * 257
    tifffile.imwrite(source / "planar.tif", deep.transpose(2, 0, 1), photometric="rgb", planarconfig="separate")
    by_libtiff = imagecodecs.tiff_decode((source / "planar.tif").read_bytes()).transpose(1, 2, 0)
    np.testing.assert_array_equal(by_libtiff, deep)
    np.testing.assert_array_equal(read_image(source / "planar.tif"), deep)
    tifffile.imwrite(source / "rgbf32.tif", (colours / 255).astype(np.float32), photometric="rgb")
    tifffile.imwrite(source / "f64.tif", grey / 3.0 - 40)
    tifffile.imwrite(source / "five.tif", np.stack([grey] * 5), photometric="minisblack", planarconfig="separate")
    Image.new("1", (15000, 13000)).save(source / "bomb.png")
    Image.fromarray(colours).save(source / "mpo.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (8, 6))])
    (source / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\2\0\0\0UL\4\0\0\0\0\0")
    assert predict(checkpoint, source, tmp_path / "out", "--probabilities") == 1
    masks = {path.name: read_image(path) for path in (tmp_path / "out" / "masks").iterdir()}
    assert set(masks) == {f"{name}.png" for name in ("reference", "planar", "rgbf32", "f64", "mpo")}
    shares = {path.stem: np.load(path)["probabilities"][1] for path in (tmp_path / "out" / "probabilities").iterdir()}
    sure = abs(shares["reference"].astype(np.float32) - 0.5) > 1e-3  # of 16 bits; colours are rounded on the way
    assert sure.mean() > 0.9
    for name in ("planar", "rgbf32"):
        np.testing.assert_array_equal(masks[f"{name}.png"][sure], masks["reference.png"][sure])
        np.testing.assert_allclose(shares[name], shares["reference"], atol=2e-3)
    assert masks["mpo.png"].shape == grey.shape
    failed = reasons(tmp_path / "out")
    assert "too large" in failed["bomb.png"]
    assert "save the channel that is meant" in failed["five.tif"]
    assert "DICOM" in failed["a.dcm"]
    assert "export it first" in failed["a.dcm"]
    assert not any("copy" in reason for reason in failed.values())


def test_15_volumes_of_any_kind(tmp_path: Path, checkpoint: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    volume = np.random.default_rng(0).integers(0, 100, (8, 6, 2)).astype(np.int16).repeat(5, 0).repeat(5, 1)
    image = nibabel.Nifti1Image(volume, np.eye(4))
    nibabel.save(image, source / "plain.nii.gz")
    nibabel.save(image, source / "plain.nii")
    (source / "plain.nii.gz").rename(source / "gz.nii")
    (source / "plain.nii").rename(source / "plain.nii.gz")
    nibabel.save(nibabel.Nifti1Image(np.stack([volume] * 3, 3), np.eye(4)), source / "d4.nii.gz")
    nibabel.save(nibabel.Nifti1Pair(volume, np.eye(4)), source / "pair.img")
    unknown = nibabel.Nifti1Image(volume, None)
    unknown.header["pixdim"][1:4] = 0
    nibabel.save(unknown, source / "pix0.nii.gz")
    long = volume.T.astype(np.int32)
    (source / "long.raw").write_bytes(long.tobytes())
    (source / "long.mhd").write_text(
        "NDims = 3\nDimSize = 40 30 2\nElementSpacing = 1 1 1\nElementType = MET_LONG\nElementDataFile = long.raw\n"
    )
    assert predict(checkpoint, source, tmp_path / "out") == 1
    failed = reasons(tmp_path / "out")
    assert set(failed) == {"gz.nii", "plain.nii.gz", "d4.nii.gz", "pair.img", "pair.hdr"}
    assert "split the time points" in failed["d4.nii.gz"]
    assert "wrong ending" in failed["gz.nii"]
    assert "wrong ending" in failed["plain.nii.gz"]
    assert "export" in failed["pair.hdr"] or "save the pair as one file" in failed["pair.hdr"]
    rows = {Path(row.cells["path"]).name: row.cells for row in read_table(tmp_path / "out" / "predictions.csv")}
    assert rows["pix0.nii.gz"]["volume_mm3"] == ""
    assert float(rows["long.mhd"]["volume_mm3"]) == float(rows["long.mhd"]["pixels"])


def reasons(out: Path) -> dict[str, str]:
    return {Path(row.cells["path"]).name: row.cells["reason"] for row in read_table(out / "failed.csv")}


# Text; names, lists, tables: tests/io/test_text.py, test_tables.py, tests/data_modules/test_lists.py


def test_09_names_that_are_no_utf_8(tmp_path: Path, checkpoint: Path, capsys: Screen) -> None:
    root = write_folder(tmp_path / "data", [*NAMES, LATIN_1])
    (root / "images" / f"{LATIN_1}2.png").write_bytes(b"no picture")
    assert predict(checkpoint, root / "images", tmp_path / "out") == 1
    assert (tmp_path / "out" / "masks" / f"{LATIN_1}.png").is_file()
    rows = [Path(row.cells["path"]).name for row in read_table(tmp_path / "out" / "predictions.csv")]
    assert sorted(rows) == sorted([*(f"{name}.png" for name in NAMES), r"gr\xf6\xdfe.png"])
    assert list(reasons(tmp_path / "out")) == [r"gr\xf6\xdfe2.png"]
    (root / "images" / f"{LATIN_1}2.png").unlink()
    assert main(["data", "split", "--root", str(root)]) == 0
    assert verify(root) == 0
    assert main(["data", "show", "folder", "--root", str(root), "--out", str(tmp_path / "sheet.png")]) == 0
    assert fit(root, tmp_path / "run", "--tensorboard", "true") == 0
    listed = [*(root / "splits").glob("*.txt")]
    assert sum(r"gr\xf6\xdfe" in path.read_text(encoding="utf-8").splitlines() for path in listed) == 1
    capsys.readouterr()
    assert fit(tmp_path / LATIN_1, tmp_path / "other", "--data.root", str(tmp_path / LATIN_1)) == 2
    assert r"gr\xf6\xdfe is not UTF-8" in capsys.readouterr().err


def test_10_lists_in_utf_16_and_with_a_mark(tmp_path: Path, capsys: Screen) -> None:
    root = write_folder(tmp_path, NAMES)
    parts = {"train": NAMES[:7], "val": NAMES[7:8], "test": NAMES[8:]}

    def write(encoding: str) -> None:
        (root / "splits").mkdir(exist_ok=True)
        for part, names in parts.items():
            (root / "splits" / f"{part}.txt").write_text(
                "".join(f"{n}\r\n" for n in names), encoding=encoding, newline=""
            )

    write("utf-16")
    assert verify(root) == 2
    assert "splits/train.txt is not UTF-8 text.\n  found: UTF-16" in capsys.readouterr().out
    assert fit(root, tmp_path / "run") == 2
    assert "splits/train.txt is not UTF-8 text.\n  found: UTF-16" in capsys.readouterr().err
    write("utf-8-sig")
    assert verify(root) == 0
    assert [len(part) for part in FolderLayout(str(root)).splits()[:3]] == [7, 1, 2]


def test_11_names_with_two_endings(tmp_path: Path) -> None:
    root = write_folder(tmp_path, [f"scan_{number:02d}.tif" for number in range(9)] + ["case #1"])
    assert main(["data", "split", "--root", str(root)]) == 0
    assert verify(root) == 0
    splits = FolderLayout(str(root)).splits()
    assert sum(map(len, splits[:3])) == 10


def test_12_the_class_ON(tmp_path: Path, capsys: Screen) -> None:  # noqa: N802
    root = write_folder(tmp_path / "data", NAMES, values=(1, 2, 3))
    (root / "classes.yaml").write_text("1: OD\n2: ON\n3: 1e3\n")
    run = tmp_path / "run"
    assert fit(root, run, "--test_after_fit", "true") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if "." in line][-6:-3] == [
        "OD",
        "ON",
        "1e3",
    ]
    assert json.loads((run / "metrics.json").read_text())["class_names"] == ["OD", "ON", "1e3"]
    assert main(["report", str(run), "--out", str(tmp_path / "report")]) == 0
    assert "| OD DSC % |" in (text := (tmp_path / "report" / "report.md").read_text())
    assert "| ON DSC % |" in text
    assert "True" not in text


def test_13_names_as_macos_composes_them(tmp_path: Path) -> None:
    root = write_folder(tmp_path, [unicodedata.normalize("NFC", f"läsion_{number}") for number in range(10)])
    for path in (root / "images").iterdir():
        path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))
    assert verify(root) == 0
    assert main(["data", "split", "--root", str(root)]) == 0
    assert verify(root) == 0


@pytest.mark.parametrize(
    ("name", "text", "status", "said"),
    [
        ("lines.csv", "image,x0,y0,x1,y1\n\n\ns00.png,2,2,9,9\ns01.png,a,2,9,9\n", 2, "lines.csv, line 5: not a box"),
        ("head.csv", "s00.png,2,2,9,9\n", 2, "--prompt point"),
        ("space.csv", "image, x0, y0, x1, y1\ns00.png, 2, 2, 9, 9\n", 0, "1 of 10 images have prompts"),
        (
            "coco.json",
            '\ufeff{"images": [{"id": 1, "file_name": "s00.png", "width": 40, "height": 32}],'
            '"annotations": [{"image_id": 1, "bbox": [2, 2, 7, 7], "segmentation": {"counts": "abc"}}]}',
            0,
            "1 of 10 images have prompts",
        ),
        (
            "folder.json",
            '{"images": [{"id": 1, "file_name": "images/s00.png"}],'
            '"annotations": [{"image_id": 1, "bbox": [2, 2, 7, 7]}]}',
            0,
            "without the folder images",
        ),
    ],
)
def test_16_prompts(tmp_path: Path, capsys: Screen, name: str, text: str, status: int, said: str) -> None:
    root = write_folder(tmp_path / "data", NAMES)
    (tmp_path / name).write_text(text)
    options = ["--method", "zero_shot", "--backbone", "tiny", "--prompts", str(tmp_path / name)]
    out = ["--output", str(tmp_path / "out")]
    assert main(["predict", *options, "--input", str(root / "images"), *out]) == status
    screen = capsys.readouterr()
    assert said in screen.out + screen.err
    if not status:
        assert read_image(tmp_path / "out" / "masks" / "s00.png").any()


# Configurations and checkpoints. Rows 19 to 21, which take a run each that is moved, killed or changed:
# tests/callbacks/test_checkpoints.py, tests/test_kill_while_saving.py, tests/test_resume_cli.py


def test_17_a_variable_of_the_shell(tmp_path: Path, capsys: Screen) -> None:  # others: tests/runs/test_filled_in.py
    config = tmp_path / "env.yaml"
    config.write_text(
        "trainer: {accelerator: cpu, max_steps: 1}\n"
        "model: {class_path: lightning_samseg.methods.UNet}\n"
        "data: {class_path: data_modules.FolderDataModule, init_args: {root: '${HOME}/data', image_size: 64}}\n"
    )
    assert main(["fit", "--config", str(config), "--trainer.default_root_dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "data.root" in said
    assert "'HOME' not found" in said
    assert "what to do: write ${oc.env:HOME}" in said
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_18_a_checkpoint_without_its_arguments(tmp_path: Path, checkpoint: Path, capsys: Screen) -> None:
    known = torch.load(checkpoint, weights_only=True)
    names = ("state_dict", "pytorch-lightning_version", "method")
    torch.save({name: known[name] for name in names}, tmp_path / "bare.ckpt")
    (tmp_path / "in").mkdir()
    Image.fromarray(square(255)).save(tmp_path / "in" / "s00.png")
    assert predict(tmp_path / "bare.ckpt", tmp_path / "in", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "bare.ckpt is not a checkpoint of a run of lightning_samseg" in said
    assert "found: a Lightning checkpoint without hyper_parameters\n  what to do: check --ckpt_path" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_epochs_are_not_counted(tmp_path: Path, capsys: Screen) -> None:
    root = write_folder(tmp_path / "data", NAMES)
    assert fit(root, tmp_path / "run", "--trainer.max_steps", "-1", "--trainer.max_epochs", "3") == 2
    said = capsys.readouterr().err
    assert "Epochs are not counted" in said
    assert "found: trainer.max_epochs 3\n  what to do: " in said
    assert "trainer.max_steps" in said.partition("what to do: ")[2]
    assert not (tmp_path / "run").exists()


def test_weights_of_half_precision(tmp_path: Path, capsys: Screen) -> None:
    root, run = write_folder(tmp_path / "data", NAMES), tmp_path / "run"
    assert fit(root, run, "--trainer.precision", "16-true") == 2
    said = capsys.readouterr().err
    assert "found: trainer.precision 16-true\n  what to do: set --trainer.precision bf16-mixed" in said
    assert "last.ckpt" not in said  # there is none
    assert "Traceback" not in said
    assert not run.exists()


# Disks; run folders: tests/runs/test_folder.py; W&B's wrong key: tests/test_bad_input.py


@pytest.mark.parametrize("fault", [fill, make_read_only])
def test_a_disk_that_is_full_or_can_only_be_read(
    fault: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Screen
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    finished = tmp_path / "finished"
    assert fit(write_folder(tmp_path / "data", NAMES), finished, "--test_after_fit", "true") == 0
    found = "No space left on device" if fault is fill else "Read-only file system"
    with disk(tmp_path / "disk", 2000) as place:
        root = write_folder(place / "data", NAMES)
        fault(place)
        before = sorted(place.rglob("*"))
        for command in (
            ["data", "split", "--root", str(root)],
            ["data", "show", "folder", "--root", str(root), "--out", str(place / "sheet.png")],
            ["report", str(finished), "--out", str(place / "report")],
        ):
            capsys.readouterr()
            assert main(command) == 2
            said = capsys.readouterr().err
            assert f"  found: {found}\n  what to do: " in said
            assert "Traceback" not in said
            assert str(place) in said
        assert [path for path in sorted(place.rglob("*")) if path.name != "splits"] == before
        assert fit(tmp_path / "data", place / "run") == 2
        assert f"  found: {found}\n  what to do: " in capsys.readouterr().err
        assert not any(path.is_file() for path in place.rglob("run/*"))


def test_a_disk_that_gets_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Screen) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    data = write_folder(tmp_path / "data", NAMES)
    with disk(tmp_path / "disk", 4000) as place:  # not enough for a checkpoint
        assert fit(data, place / "run") == 2
        assert "found: No space left on device" in capsys.readouterr().err
        status = json.loads((place / "run" / "status.json").read_text())
        assert (status["state"], "No space left" in status["error"]) == ("failed", True)
