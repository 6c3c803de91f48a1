"""``predict --input`` against the run's own test predictions, on every format, and on bad input."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import lightning
import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from PIL import Image
from scipy import ndimage

from data_modules import BusiDataModule, FolderDataModule
from lightning_samseg.__main__ import main
from lightning_samseg.inference import load_predictor
from lightning_samseg.io.images import read_image, write_image
from lightning_samseg.methods import CpcSam, SAMed, UNet
from lightning_samseg.models.sam import BackboneName
from lightning_samseg.predict_cli import BACKBONES
from tests.fakes import acdc_volume, truncate, write_busi, write_folder, write_nifti

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # the networks are tiny


def trained(folder: Path, method: Any, data: Any) -> tuple[Path, dict[Any, np.ndarray]]:
    """A checkpoint after one step, and its own test predictions by case and slice."""
    found: dict[Any, np.ndarray] = {}

    class Keep(lightning.Callback):
        def on_test_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
        ) -> None:
            found.update({(c.source, c.slice_index): p for c, p in zip(batch["cases"], outputs, strict=True)})

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[Keep()],
        limit_val_batches=0,
    )
    trainer.fit(method, datamodule=data)
    path = folder / "checkpoints" / "best.ckpt"
    trainer.save_checkpoint(path)
    trainer.test(method, datamodule=data, verbose=False)
    return path, found


def unet(num_classes: int = 1, **arguments: Any) -> UNet:
    torch.manual_seed(0)
    # A step of this size moves nothing: what it predicts stays as mixed as at random.
    encoder = "timm-mobilenetv3_small_minimal_100"
    return UNet(encoder=encoder, num_classes=num_classes, image_size=32, lr=1e-9, **arguments)


def predict(path: Path, source: Path, output: Path, *options: str) -> int:
    return main(["predict", "--ckpt_path", str(path), "--input", str(source), "--output", str(output), *options])


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unequal sizes; grey, colour and 16 bits."""
    root = write_folder(tmp_path_factory.mktemp("pictures"), [f"case{n}" for n in range(10)])
    for number, size in ((1, (50, 20)), (4, (25, 61)), (7, (33, 33))):
        deep = RNG.integers(0, 60000, size).astype(np.uint16)
        write_image(root / "images" / f"case{number}.png", deep if number == 1 else (deep >> 8).astype(np.uint8))
        write_image(root / "masks" / f"case{number}.png", np.eye(*size, dtype=bool))
    return root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """A checkpoint of a network with two classes."""
    data = FolderDataModule(str(pictures), image_size=32, labelled_batch_size=2)
    path, _ = trained(tmp_path_factory.mktemp("run"), unet(), data)
    return path


@pytest.mark.parametrize("resize", ["squash", "longest_side"])
@pytest.mark.parametrize("normalise", ["sam", "minmax", "percentile"])
def test_masks_are_those_of_the_runs_own_test(tmp_path: Path, pictures: Path, resize: Any, normalise: Any) -> None:
    geometry: Any = "corner_aligned" if normalise == "percentile" else "half_pixel"
    restore: Any = "labels" if normalise == "sam" else "probabilities"
    data = FolderDataModule(
        str(pictures),
        image_size=32,
        labelled_batch_size=2,
        eval_batch_size=1,
        normalise=normalise,
        resize=resize,
        geometry=geometry,
        grey=normalise == "minmax",
    )
    path, own = trained(tmp_path, unet(restore=restore), data)
    assert predict(path, pictures / "images", tmp_path / "out") == 0
    assert 2 <= len(own) < 10
    for (source, _), expected in own.items():
        assert 0 < expected.mean() < 1
        mask = read_image(tmp_path / "out" / "masks" / Path(source).name)
        np.testing.assert_array_equal(mask, expected)
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 10

    # Whoever alters the normalisation alters the masks: they come from what the checkpoint says.
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["datamodule_hyper_parameters"]["normalise"] = "sam" if normalise != "sam" else "minmax"
    torch.save(checkpoint, tmp_path / "altered.ckpt")
    assert predict(tmp_path / "altered.ckpt", pictures / "images", tmp_path / "other") == 0
    differing = [
        (read_image(tmp_path / "other" / "masks" / Path(source).name) != expected).any()
        for (source, _), expected in own.items()
    ]
    assert any(differing)


@pytest.mark.parametrize("method", [SAMed, CpcSam])
def test_sam_methods_need_no_pretrained_weights(tmp_path: Path, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = BusiDataModule(
        str(write_busi(tmp_path / "busi")),
        split="random",
        image_size=32,
        num_labelled=4,
        labelled_batch_size=2,
        unlabelled_batch_size=1,
        eval_batch_size=3,
    )
    torch.manual_seed(1)
    path, own = trained(tmp_path, method(backbone="tiny", image_size=32, num_classes=1, lr=1e-9), data)
    monkeypatch.setattr("lightning_samseg.models.dual_branch.load_pretrained", lambda *_: 1 / 0)
    folder = tmp_path / "chosen"
    for source, _ in own:
        (folder / Path(source).parent.name).mkdir(parents=True, exist_ok=True)
        (folder / Path(source).parent.name / Path(source).name).write_bytes(Path(source).read_bytes())
    assert predict(path, folder, tmp_path / "out", "--batch_size", "3", "--threads", "3") == 0
    assert load_predictor(path).class_names == ("lesion",)
    for (source, _), expected in own.items():
        mask = read_image(tmp_path / "out" / "masks" / Path(source).relative_to(tmp_path / "busi/Dataset_BUSI_with_GT"))
        np.testing.assert_array_equal(mask, expected)
    assert any(0 < expected.mean() < 1 for expected in own.values())


@pytest.mark.parametrize("normalise", ["stored", "minmax"])
def test_volumes_end_to_end(tmp_path: Path, normalise: Any) -> None:
    root = tmp_path / "data"
    for number in range(6):
        for folder, array in zip(("images", "masks"), acdc_volume(3 + number % 2, seed=number), strict=True):
            (root / folder).mkdir(parents=True, exist_ok=True)
            write_nifti(root / folder / f"case{number}.nii.gz", array)
    (root / "classes.yaml").write_text("1: RV\n2: Myo\n3: LV\n")
    data = FolderDataModule(
        str(root), image_size=32, labelled_batch_size=2, eval_batch_size=4, normalise=normalise, resize="longest_side"
    )
    path, own = trained(tmp_path, unet(3), data)
    out = tmp_path / "out"
    assert predict(path, root / "images", out, "--probabilities", "--overlays", "2") == 0
    table = rows(out)
    for (source, index), expected in own.items():
        written = nibabel.load(out / "masks" / Path(source).name)
        image = nibabel.load(source)
        np.testing.assert_array_equal(np.asarray(written.dataobj)[..., index].T, expected)
        np.testing.assert_array_equal(written.affine, image.affine)
        assert written.get_data_dtype() == np.uint8
        assert written.shape == image.shape
    source = next(iter(own))[0]
    labels = np.asarray(nibabel.load(out / "masks" / Path(source).name).dataobj).T
    with np.load(out / "probabilities" / f"{Path(source).name}.npz") as stored:
        assert stored["classes"].tolist() == ["background", "RV", "Myo", "LV"]
        probabilities = stored["probabilities"]
    assert (probabilities.dtype, probabilities.shape) == (np.float16, (4, *labels.shape))
    np.testing.assert_allclose(probabilities.sum(0, dtype=np.float32), 1, atol=3e-3)
    # float16 may tie neighbours
    assert np.take_along_axis(probabilities, labels[None].astype(int), 0)[0] == pytest.approx(
        probabilities.max(0), abs=1e-3
    )
    for row in (row for row in table if row["path"] == source):
        inside = labels == int(row["class_id"])
        assert int(row["pixels"]) == inside.sum()
        assert float(row["volume_mm3"]) == pytest.approx(inside.sum() * 10 * 1.5 * 1.25, rel=1e-5)
        assert int(row["components"]) == ndimage.label(inside, np.ones((3, 3, 3)))[1]
        assert (row["area_mm2"], row["slices"]) == ("", str(len(labels)))
    assert [row["class"] for row in table[:3]] == ["RV", "Myo", "LV"]
    drawn = list((out / "overlays" / Path(source).name).glob("*.png"))
    assert 1 <= len(drawn) <= 2
    assert read_image(drawn[0]).shape == (*labels.shape[1:], 3)


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
        "patient.dcm": "not an image",
        "cut.nii.gz": "damaged",
        "text.nii": "no NIfTI file",
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


def test_classes_without_a_name_are_measured_too(tmp_path: Path, run: Path, pictures: Path) -> None:
    unnamed = altered(run, tmp_path / "unnamed.ckpt", class_names=[])
    assert predict(unnamed, pictures / "images" / "case0.png", tmp_path / "out") == 0
    assert [row["class"] for row in rows(tmp_path / "out")] == ["class 1"]


def test_batches_and_threads_change_nothing(tmp_path: Path, run: Path, pictures: Path) -> None:
    assert predict(run, pictures / "images", tmp_path / "a", "--batch_size", "1") == 0
    assert predict(run, pictures / "images", tmp_path / "b", "--batch_size", "7", "--threads", "4") == 0
    for path in (tmp_path / "a" / "masks").iterdir():
        differing = read_image(path) != read_image(tmp_path / "b" / "masks" / path.name)
        assert differing.mean() < 0.01  # rounding at ties


def altered(path: Path, out: Path, **entries: Any) -> Path:
    torch.save({**torch.load(path, weights_only=True), **entries}, out)
    return out


def without(path: Path, out: Path, entry: str) -> Path:
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint[entry]
    torch.save(checkpoint, out)
    return out


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no checkpoint": (["--input", "IMAGES", "--output", "OUT"], "Either a checkpoint or the method"),
    "both": (["--ckpt_path", "RUN", "--method", "zero_shot", "--input", "IMAGES", "--output", "OUT"], "found: both"),
    "missing checkpoint": (["--ckpt_path", "no.ckpt", "--input", "IMAGES", "--output", "OUT"], "no checkpoint no.ckpt"),
    "missing input": (["--ckpt_path", "RUN", "--input", "nowhere", "--output", "OUT"], "no file or folder nowhere"),
    "empty input": (["--ckpt_path", "RUN", "--input", "EMPTY", "--output", "OUT"], "No images found"),
    "prompts": (["--ckpt_path", "RUN", "--input", "IMAGES", "--output", "OUT", "--prompts", "x"], "without prompts"),
    "zero-shot alone": (["--method", "zero_shot", "--input", "IMAGES", "--output", "OUT"], "add --prompts FILE"),
    "no place": (["--ckpt_path", "RUN", "--input", "IMAGES", "--output", "BELOW"], "cannot be made"),
    "device": (["--ckpt_path", "RUN", "--input", "IMAGES", "--output", "OUT", "--device", "tpu9"], "--device cpu"),
    "batch size": (["--ckpt_path", "RUN", "--input", "IMAGES", "--output", "OUT", "--batch_size", "0"], "at least 1"),
    "foreign": (["--ckpt_path", "FOREIGN", "--input", "IMAGES", "--output", "OUT"], "does not say which method"),
    "learns only": (["--ckpt_path", "DIRECT", "--input", "IMAGES", "--output", "OUT"], "while it learns only"),
    "untold": (["--ckpt_path", "UNTOLD", "--input", "IMAGES", "--output", "OUT"], "how its training images"),
    "damaged": (["--ckpt_path", "CUT", "--input", "IMAGES", "--output", "OUT"], "not a checkpoint of a run, or is"),
    "other version": (["--ckpt_path", "NEWER", "--input", "IMAGES", "--output", "OUT"], "another version"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_message(
    tmp_path: Path, run: Path, pictures: Path, mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    options, message = MISTAKES[mistake]
    (tmp_path / "empty").mkdir()
    places = {"RUN": run, "IMAGES": pictures / "images", "OUT": tmp_path / "out", "EMPTY": tmp_path / "empty"}
    places["BELOW"] = pictures / "images" / "case0.png" / "out"  # below a file
    if mistake == "foreign":
        places["FOREIGN"] = altered(run, tmp_path / "foreign.ckpt", method="os.system")
    elif mistake == "learns only":
        places["DIRECT"] = altered(run, tmp_path / "direct.ckpt", method="lightning_samseg.methods.direct_ol.DirectOl")
    elif mistake == "untold":
        places["UNTOLD"] = without(run, tmp_path / "untold.ckpt", "datamodule_hyper_parameters")
    elif mistake == "damaged":
        places["CUT"] = altered(run, tmp_path / "cut.ckpt")
        truncate(places["CUT"])
    elif mistake == "other version":
        arguments = torch.load(run, weights_only=True)["hyper_parameters"]
        places["NEWER"] = altered(run, tmp_path / "newer.ckpt", hyper_parameters={**arguments, "arch_v2": 1})
    assert main(["predict", *[str(places.get(option, option)) for option in options]]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "way out:" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_another_preparation_than_the_trainings_is_noticed(
    tmp_path: Path, run: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "trainer: {accelerator: cpu, logger: false, enable_progress_bar: false}\n"
        "model:\n  class_path: lightning_samseg.methods.UNet\n"
        "  init_args: {encoder: timm-mobilenetv3_small_minimal_100}\n"
        f"data:\n  class_path: data_modules.FolderDataModule\n  init_args: {{root: {pictures}, image_size: 32}}\n"
    )
    options = ["test", "--config", str(config), "--ckpt_path", str(run), "--overlays", "0"]
    for number, normalise in enumerate(("minmax", "sam")):
        folder = ["--trainer.default_root_dir", str(tmp_path / str(number))]
        assert main([*options, *folder, "--data.normalise", normalise]) == 0
        printed = capsys.readouterr().out
        assert ("warning: data.normalise is sam" in printed) == (normalise == "sam")
    assert "was trained with minmax" in printed


def test_help_and_mistakes_need_no_torch() -> None:
    code = "import sys; from lightning_samseg.__main__ import main\n"
    code += "status = main(['predict', '--input', 'nowhere', '--output', 'x', '--ckpt_path', 'y'])\n"
    code += "assert not {'torch', 'numpy', 'lightning'} & set(sys.modules); sys.exit(status)"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: There is no file or folder nowhere.")


def test_backbones_offered_are_those_there_are() -> None:
    assert set(BACKBONES) == set(get_args(BackboneName))
