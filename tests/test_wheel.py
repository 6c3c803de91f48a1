"""The package as somebody has it who installed a wheel and works in a notebook, in a folder of his own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[1]
NOTEBOOK = """
import numpy as np
import torch
import lightning
import lightning_samseg as samseg
from torch.utils.data import DataLoader, TensorDataset
from data_modules import FolderDataModule
from lightning_samseg.methods import UNet
from PIL import Image
from pathlib import Path

assert Path(samseg.__file__).is_relative_to(TARGET), samseg.__file__
rng = np.random.default_rng(0)
left = np.tile(np.arange(40) < 20, (30, 1))
for folder in ("data/images", "data/masks"):
    Path(folder).mkdir(parents=True)
for number in range(10):
    Image.fromarray(rng.integers(0, 255, (30, 40, 3)).astype(np.uint8)).save(f"data/images/case{number}.png")
    Image.fromarray(left).save(f"data/masks/case{number}.png")
quiet = dict(accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)

data = FolderDataModule("data", image_size=32, labelled_batch_size=2)
method = UNet(network={"name": "paper"}, image_size=data.image_size, num_classes=data.num_classes)
run = samseg.fit(method, data, folder="runs/mine", max_steps=2, **quiet)
model = samseg.load(run.best)
answer = model.predict("data/images/case0.png")
assert answer.labels.shape == (30, 40) and answer.class_names == model.class_names
answer.overlay().save("overlay.png")
answer.save("mask.png")
assert samseg.test(run.best, data, **quiet).scores["test/dsc"] >= 0

online = samseg.Online(samseg.load_sam("tiny"), auxiliary={"width": 0.0625}, crop={"size": 32})
for number in range(3):
    answer = online.predict(f"data/images/case{number}.png", boxes=[(2, 3, 30, 28)])
    assert online.learn(answer, left).prompts == 1
online.save("online.ckpt")
samseg.Online.restore("online.ckpt")


class Mine(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        loss = ((batch[0] - self.value) ** 2).mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Numbers(lightning.LightningDataModule):
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.arange(8.0)), batch_size=2)


assert samseg.fit(Mine(), Numbers(), folder="runs/own", max_steps=2, **quiet).scores["loss"] > 0
print("done")
"""


def test_a_notebook_beside_an_installed_wheel(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = tmp_path / "source"  # a build leaves its traces where it takes place
    for package in ("lightning_samseg", "data_modules"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = ["wheel", "--no-deps", "--wheel-dir", str(tmp_path / "wheels"), str(source)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = (tmp_path / "wheels").iterdir()
    target = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), str(wheel)], check=True)
    folder = tmp_path / "notebook"
    folder.mkdir()
    (folder / "notebook.py").write_text(NOTEBOOK.replace("TARGET", repr(str(target))))
    environment = {**os.environ, "PYTHONPATH": str(target)}
    done = subprocess.run(
        [sys.executable, "notebook.py"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("done\n")
