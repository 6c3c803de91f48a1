"""What the tests of ``predict --input`` share: pictures, a network after one step, and the command."""

import csv
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch

from data_modules import FolderDataModule
from lightning_samseg.__main__ import main
from lightning_samseg.io.images import write_image
from lightning_samseg.methods import UNet
from tests.fakes import write_folder
from tests.grouped import grouped


def write_pictures(root: Path) -> Path:
    """Unequal sizes; grey, colour and 16 bits."""
    rng = np.random.default_rng(0)
    root = write_folder(root, [f"case{n}" for n in range(10)])
    for number, size in ((1, (50, 20)), (4, (25, 61)), (7, (33, 33))):
        deep = rng.integers(0, 60000, size).astype(np.uint16)
        write_image(root / "images" / f"case{number}.png", deep if number == 1 else (deep >> 8).astype(np.uint8))
        write_image(root / "masks" / f"case{number}.png", np.eye(*size, dtype=bool))
    return root


def run_on(pictures: Path, folder: Path) -> Path:
    """A checkpoint of a network with two classes."""
    data = FolderDataModule(str(pictures), image_size=32, labelled_batch_size=2)
    path, _ = trained(folder, unet(), data)
    return path


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
    return grouped(UNet, network=f"smp/unet/{encoder}", num_classes=num_classes, image_size=32, lr=1e-9, **arguments)


def predict(path: Path, source: Path, output: Path, *options: str) -> int:
    return main(["predict", "--ckpt_path", str(path), "--input", str(source), "--output", str(output), *options])


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def altered(path: Path, out: Path, **entries: Any) -> Path:
    torch.save({**torch.load(path, weights_only=True), **entries}, out)
    return out


def without(path: Path, out: Path, entry: str) -> Path:
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint[entry]
    torch.save(checkpoint, out)
    return out
