"""A method of one's own is one file: fit, test, predict, the pictures of a validation and the report know it."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import lightning_samseg as samseg
from lightning_samseg.__main__ import main
from lightning_samseg.callbacks import validation_overlays
from lightning_samseg.io.images import read_image
from tests.fakes import write_folder

METHOD = '''
"""Logistic regression of every pixel."""

import torch
from torch import Tensor, nn

from lightning_samseg.losses.dice_ce import dice_ce_loss
from lightning_samseg.methods import BaseMethod
from lightning_samseg.types import Panel


class PixelByPixel(BaseMethod):
    """As it says.

    Args:
        width: Of the hidden layer.
        base: Arguments of BaseMethod.
    """

    def __init__(self, width: int = 4, **base) -> None:
        super().__init__(**base)
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Conv2d(3, width, 1), nn.ReLU(), nn.Conv2d(width, self.num_classes + 1, 1))

    def training_step(self, batch, batch_idx) -> Tensor:
        loss = dice_ce_loss(self.network(batch["image"]), batch["mask"], 0.5)
        self.log("train/loss", loss.detach())
        return loss

    def predict_probabilities(self, image: Tensor) -> Tensor:
        return self.network(image).float().softmax(1)

    def panels(self, image: Tensor, case):
        return [Panel("hidden", self.network[0](image)[0, 0] > 0)]
'''
CONFIG = """
test_after_fit: true
trainer:
  accelerator: cpu
  max_steps: 4
  val_check_interval: 2
  enable_progress_bar: false
  enable_model_summary: false
model:
  class_path: {module}.PixelByPixel
  init_args: {{width: 3, optimizer: {{lr: 1.0e-2}}}}
data:
  class_path: data_modules.FolderDataModule
  init_args: {{root: {root}, image_size: 32, labelled_batch_size: 2}}
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A run of a method that is one file beside its config."""
    write_folder(tmp_path / "data", [f"case{n}" for n in range(10)])
    module = f"own_method_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{module}.py").write_text(METHOD)
    (tmp_path / "config.yaml").write_text(CONFIG.format(module=module, root=tmp_path / "data"))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop(module, None)


def test_one_file_is_known_to_all_verbs(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []
    real = validation_overlays.draw_overlay

    def draw(*arguments, **options):
        shown.append(arguments[-1])
        return real(*arguments, **options)

    monkeypatch.setattr(validation_overlays, "draw_overlay", draw)
    run, common = own / "run", ["--config", str(own / "config.yaml")]
    folder = ["--trainer.default_root_dir", str(run)]
    assert main(["fit", *common, *folder]) == 0
    assert set(shown) == {" | hidden"}  # overlays of validations
    assert list((run / "overlays").glob("*.png"))  # and of the test
    assert main(["test", *common, *folder, "--ckpt_path", "best"]) == 0
    assert json.loads((run / "test-1" / "metrics.json").read_text())["method"].endswith(".PixelByPixel")

    best = run / "checkpoints" / "best.ckpt"
    predict = ["predict", "--ckpt_path", str(best), "--input", str(own / "data/images"), "--output", str(own / "out")]
    capsys.readouterr()
    assert main(predict) == 2
    assert "--trust" in capsys.readouterr().err
    assert not (own / "out").exists()
    assert main([*predict, "--trust", "--overlays"]) == 0
    assert len(list((own / "out" / "overlays").iterdir())) == 10
    # What the run itself has predicted in its test, the way through the checkpoint alone predicts, too.
    with (run / "cases.csv").open(newline="") as file:
        scores = {row["case_id"]: float(row["dsc"]) for row in csv.DictReader(file)}
    for name, dsc in scores.items():
        mask = read_image(own / "out" / "masks" / f"{name}.png") == 1
        reference = read_image(own / "data" / "masks" / f"{name}.png") > 0
        both = np.count_nonzero(mask) + np.count_nonzero(reference)
        assert dsc == pytest.approx(2 * np.count_nonzero(mask & reference) / both if both else 1.0)

    assert main(["report", str(run), "--out", str(own / "report")]) == 0
    assert "PixelByPixel" in (own / "report" / "results.csv").read_text()


def test_in_python_its_code_is_imported_only_where_that_is_asked_for(own: Path) -> None:
    assert main(["fit", "--config", str(own / "config.yaml"), "--trainer.default_root_dir", str(own / "run")]) == 0
    best = own / "run" / "checkpoints" / "best.ckpt"
    with pytest.raises(samseg.UserError, match="trust=True"):
        samseg.load(best)
    model = samseg.load(best, trust=True)
    assert type(model.method).__name__ == "PixelByPixel"
    assert model.predict(own / "data" / "images" / "case0.png").labels.shape == (32, 40)
