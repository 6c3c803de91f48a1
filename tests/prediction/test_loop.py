"""``predict --input`` against the run's own test predictions."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from data_modules import BusiDataModule, FolderDataModule
from lightning_samseg.io.images import read_image
from lightning_samseg.methods import CpcSam, SAMed, UNet
from lightning_samseg.prediction.predictor import load_predictor
from tests.fakes import acdc_volume, write_busi, write_nifti
from tests.float64 import predict_in_float64
from tests.grouped import grouped
from tests.predicting import altered, predict, rows, run_on, trained, unet, write_pictures


@pytest.fixture(autouse=True)
def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's test and ``predict --input`` make other batches of the same pictures."""
    predict_in_float64(monkeypatch, UNet, SAMed, CpcSam)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    return run_on(pictures, tmp_path_factory.mktemp("run"))


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
    path, own = trained(tmp_path, grouped(method, backbone="tiny", image_size=32, num_classes=1, lr=1e-9), data)
    monkeypatch.setattr("lightning_samseg.models.branched_sam.load_pretrained", lambda *_: 1 / 0)
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


def test_classes_without_a_name_are_measured_too(tmp_path: Path, run: Path, pictures: Path) -> None:
    unnamed = altered(run, tmp_path / "unnamed.ckpt", class_names=[])
    assert predict(unnamed, pictures / "images" / "case0.png", tmp_path / "out") == 0
    assert [row["class"] for row in rows(tmp_path / "out")] == ["class 1"]


def test_batches_and_threads_change_nothing(tmp_path: Path, run: Path, pictures: Path) -> None:
    assert predict(run, pictures / "images", tmp_path / "a", "--batch_size", "1") == 0
    assert predict(run, pictures / "images", tmp_path / "b", "--batch_size", "7", "--threads", "4") == 0
    for path in (tmp_path / "a" / "masks").iterdir():
        np.testing.assert_array_equal(read_image(path), read_image(tmp_path / "b" / "masks" / path.name))
