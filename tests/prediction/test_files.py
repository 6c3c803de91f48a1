"""``predict --input`` on every format, unreadable files, names that clash, links."""

import csv
import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from lightning_samseg.io.images import read_image, write_image
from lightning_samseg.prediction.files import PredictionFolder, Source
from tests.disks import disk, fill, make_read_only
from tests.fakes import acdc_volume, truncate, write_folder, write_nifti
from tests.predicting import predict, rows, run_on, write_pictures

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    return run_on(pictures, tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("fault", [fill, make_read_only])
def test_a_disk_that_takes_no_more_ends_it_at_once(
    fault: Callable[[Path], Any],
    tmp_path: Path,
    run: Path,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written: list[str] = []
    write = PredictionFolder.write

    def third_time(folder: PredictionFolder, source: Source, *rest: Any) -> None:
        written.append(source.name)
        if len(written) == 3:
            fault(tmp_path / "disk")
        write(folder, source, *rest)

    monkeypatch.setattr(PredictionFolder, "write", third_time)
    with disk(tmp_path / "disk", 2000) as place:
        assert predict(run, pictures / "images", place / "out") == 2
        said = capsys.readouterr().err
        assert f"error: {place / 'out'} takes no more results: {pictures / 'images' / 'case2.png'} and what" in said
        found = "No space left on device" if fault is fill else "Read-only file system"
        assert f"  found: {found}\n  what to do: " in said
        assert said.count("what to do: ") == 1
        assert "Traceback" not in said
        assert written == ["case0", "case1", "case2"]
        assert sorted(path.name for path in (place / "out").rglob("*.*")) == ["case0.png", "case1.png"]
        for path in (place / "out" / "masks").iterdir():
            assert read_image(path).shape == read_image(pictures / "images" / path.name).shape[:2]


def test_a_name_that_is_too_long_costs_the_others_nothing(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        write_image(tmp_path / "in" / f"{name}.png", RNG.integers(0, 255, (20, 30), dtype=np.uint8))
    write = PredictionFolder.write

    def refused(folder: PredictionFolder, source: Source, *rest: Any) -> None:
        if source.name == "b":
            raise OSError(errno.ENAMETOOLONG, "File name too long", str(folder.folder / "masks" / "b.png"))
        write(folder, source, *rest)

    monkeypatch.setattr(PredictionFolder, "write", refused)
    assert predict(run, tmp_path / "in", tmp_path / "out") == 1
    assert [Path(row["path"]).name for row in rows(tmp_path / "out")] == ["a.png", "c.png"]


def test_every_format_and_mode(tmp_path: Path, run: Path) -> None:
    folder = tmp_path / "mixed"
    (folder / "deep" / "deeper").mkdir(parents=True)
    grey = RNG.integers(0, 255, (30, 44), dtype=np.uint8)
    colour = RNG.integers(0, 255, (30, 44, 3), dtype=np.uint8)
    modes = {
        "grey.png": Image.fromarray(grey),
        "colour.jpg": Image.fromarray(colour),
        "upper.PNG": Image.fromarray(colour),
        "deep/alpha.png": Image.fromarray(np.dstack([colour, grey])),
        "deep/palette.bmp": Image.fromarray(colour).quantize(16),
        "deep/deeper/web.webp": Image.fromarray(colour),
        "deep/deeper/la.png": Image.fromarray(np.dstack([grey, grey]), "LA"),
        "float.tif": Image.fromarray(grey.astype(np.float32) / 7),
        "sixteen.tif": Image.fromarray(grey.astype(np.uint16) * 200),
        "bits.png": Image.fromarray(grey > 100),
    }
    for name, image in modes.items():
        image.save(folder / name)
    volume = RNG.integers(0, 4000, (3, 30, 44)).astype(np.int16)
    write_nifti(folder / "deep" / "ct.nii", volume, (2.0, 0.5, 0.25))
    for name, array in (("mr.mha", volume), ("mr2.mhd", volume.astype(np.float32)), ("slice.mha", volume[0])):
        image = SimpleITK.GetImageFromArray(array)
        image.SetSpacing((0.25, 0.5, 2.0)[: array.ndim])
        image.SetOrigin((3.0, 4.0, 5.0)[: array.ndim])
        SimpleITK.WriteImage(image, str(folder / name))
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_bytes(b"")
    out = tmp_path / "out"
    assert predict(run, folder, out, "--overlays", "--probabilities") == 0

    masks = {path.relative_to(out / "masks").as_posix() for path in (out / "masks").rglob("*.*")}
    expected = {str(Path(name).with_suffix(".png")) for name in modes}
    assert masks == expected | {"deep/ct.nii", "mr.mha", "mr2.mhd", "mr2.raw", "slice.mha"}
    for name in expected:
        mask = Image.open(out / "masks" / name)
        assert (mask.mode, mask.size) == ("L", (44, 30))
        assert set(np.unique(mask)) <= {0, 1}
        with np.load(out / "probabilities" / f"{name[:-4]}.npz") as stored:
            assert stored["probabilities"].shape == (2, 30, 44)
            background, foreground = stored["probabilities"].astype(np.float32)
            clear = abs(foreground - background) > 2e-3  # than float16 rounds
            np.testing.assert_array_equal((foreground > background)[clear], np.asarray(mask)[clear] > 0)
            assert clear.mean() > 0.8
    for name in ("mr.mha", "mr2.mhd", "slice.mha"):
        before, after = (SimpleITK.ReadImage(str(root / name)) for root in (folder, out / "masks"))
        assert after.GetPixelID() == SimpleITK.sitkUInt8
        for get in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(after, get)() == getattr(before, get)()
    same = [SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(out / "masks" / n))) for n in ("mr.mha", "mr2.mhd")]
    np.testing.assert_array_equal(*same)  # the same numbers in another type of voxel
    np.testing.assert_array_equal(np.asarray(nibabel.load(out / "masks" / "deep" / "ct.nii").dataobj).T, same[0])
    single = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(out / "masks" / "slice.mha")))
    np.testing.assert_array_equal(single, same[0][0])
    area = next(row for row in rows(out) if row["mask"].endswith("slice.mha"))
    assert float(area["area_mm2"]) == pytest.approx(int(area["pixels"]) * 0.125, rel=1e-5)
    assert area["volume_mm3"] == ""
    assert (out / "overlays" / "deep" / "palette.png").is_file()
    assert len(rows(out)) == len(modes) + 4
    assert not list(out.rglob(".*"))


def test_unreadable_files_do_not_stop_the_rest(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path, ["a", "b", "c"]) / "images"
    truncate(folder / "b.png")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "patient.dcm").write_bytes(b"DICM")
    write_nifti(folder / "good.nii.gz", acdc_volume(3)[0])
    write_nifti(folder / "cut.nii.gz", acdc_volume(30)[0])
    truncate(folder / "cut.nii.gz")
    (folder / "text.nii").write_text("no volume")
    values = acdc_volume(3)[0].astype(np.float32)
    values[2, 3, 3] = np.nan
    write_nifti(folder / "nan.nii", values)
    Image.new("L", (8, 8)).save(folder / "pages.tif", save_all=True, append_images=[Image.new("L", (8, 8))])
    out = tmp_path / "out"
    assert predict(run, folder, out) == 1
    assert {path.name for path in (out / "masks").iterdir()} == {"a.png", "c.png", "good.nii.gz"}
    with (out / "failed.csv").open(newline="") as file:
        failed = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    reasons = {
        "b.png": "truncated",
        "empty.jpg": "cannot be read",
        "patient.dcm": "it is a DICOM file",
        "cut.nii.gz": "damaged",
        "text.nii": "it is a text file",
        "nan.nii": "slice 3 holds values that are not finite",
        "pages.tif": "2 pages",
    }
    assert set(failed) == set(reasons)
    for name, reason in reasons.items():
        assert reason in failed[name], name
    printed = capsys.readouterr().out
    assert "7 of 10 files have no result" in printed
    assert printed.index("b.png") < printed.index("pages.tif")


def test_one_file_and_names_that_clash(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folder(tmp_path, ["a", "b"]) / "images"
    assert predict(run, folder / "a.png", tmp_path / "one") == 0
    assert [path.name for path in (tmp_path / "one" / "masks").iterdir()] == ["a.png"]
    Image.open(folder / "a.png").save(folder / "A.bmp")
    out = folder / "results"  # in the folder itself: not predicted, now or later
    out.mkdir()
    write_image(out / "masks" / "old.png", np.zeros((4, 4), np.uint8))
    (out / "masks" / "old.png").rename(folder / "results.png")
    (out / "masks").rmdir()
    assert predict(run, folder, out) == 0
    assert {path.name for path in (out / "masks").iterdir()} == {"a.png.png", "A.bmp.png", "b.png", "results.png"}
    assert "a.png shares its name with another file" in capsys.readouterr().out
    np.testing.assert_array_equal(
        read_image(out / "masks" / "a.png.png"), read_image(tmp_path / "one" / "masks" / "a.png")
    )
    assert predict(run, folder, out) == 2
    assert "is there already and not empty" in capsys.readouterr().err


def test_links_are_followed_and_long_names_cost_no_other(
    tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = write_folder(tmp_path / "elsewhere", ["a", "b"]) / "images"
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "linked").symlink_to(elsewhere)
    (elsewhere / "circle").symlink_to(folder)
    (folder / "link.png").symlink_to(elsewhere / "a.png")
    (folder / "nowhere.png").symlink_to(tmp_path / "gone.png")
    long = "x" * 251
    for ending in (".png", ".bmp"):  # their masks would be named .png.png and .bmp.png
        Image.open(elsewhere / "a.png").save(folder / f"{long}{ending}")
    (folder / "deep").mkdir()
    Image.open(elsewhere / "b.png").save(folder / "deep" / f"{long}.png")
    out = tmp_path / "out"
    assert predict(run, folder, out, "--overlays") == 1
    masks = {path.relative_to(out / "masks").as_posix() for path in (out / "masks").rglob("*.png")}
    assert masks == {"link.png", "linked/a.png", "linked/b.png", f"deep/{long}.png"}
    assert len(rows(out)) == 4
    with (out / "failed.csv").open(newline="") as file:
        failed = {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}
    assert set(failed) == {"nowhere.png", f"{long}.png", f"{long}.bmp"}
    assert "There is no image file" in failed["nowhere.png"]
    assert "File name too long" in failed[f"{long}.bmp"]
    assert "3 of 7 files have no result" in capsys.readouterr().out
