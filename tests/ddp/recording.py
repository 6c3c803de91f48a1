"""What the gradient tests share: methods that save their gradients, and a short training in any number of processes."""

from pathlib import Path
from typing import Any

import lightning
import torch

from data_modules import BusiDataModule
from lightning_samseg.methods import CpcSam, SAMed
from tests.comparing import assert_equal
from tests.float64 import in_float64
from tests.grouped import grouped

Gradients = dict[str, "torch.Tensor | None"]


def save_gradients(method: Any) -> None:
    """Save the gradients that the optimizer step to come is made from."""
    if method.global_rank == 0:
        grads = {n: p.grad for n, p in method.named_parameters() if p.requires_grad}
        torch.save(grads, method.folder / f"{method.global_step}.pt")


class RecordingCpcSam(CpcSam):
    folder: Path

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        save_gradients(self)


class RecordingSAMed(SAMed):
    folder: Path

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        save_gradients(self)


def train(method: type[Any], folder: Path, data: Path, devices: int, steps: int, **arguments: Any) -> list[Gradients]:
    """Gradients of the (last) AdamW step of every iteration; 4 labelled images, and as many without, per iteration.

    All in float64: an argmax, whose pixels become prompts and pseudo labels, must not hang on the order of a sum. The
    rate is 0, so that iterations are compared one by one.
    """
    lightning.seed_everything(1, verbose=False)
    model = grouped(method, backbone="tiny", image_size=32, num_classes=1, lr=0.0, **arguments)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # or A would have no gradient to compare
            torch.nn.init.normal_(parameter, std=0.1)
    return fit(in_float64(model), folder, data, devices, steps)


def fit(model: Any, folder: Path, data: Path, devices: int, steps: int) -> list[Gradients]:
    """The same of a method that is built already, and has an attribute ``folder``."""
    folder.mkdir()
    model.folder = folder
    batch = 4 // devices
    module = BusiDataModule(
        str(data),
        split="random",
        image_size=32,
        num_labelled=5,
        labelled_batch_size=batch,
        unlabelled_batch_size=batch,
        seed=1,
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=devices,
        precision="64-true",
        strategy="ddp_fork" if devices > 1 else "auto",
        max_steps=steps,
        val_check_interval=steps,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=module)
    return [torch.load(folder / f"{step}.pt", weights_only=True) for step in range(steps)]


def assert_equal_gradients(one: list[Gradients], other: list[Gradients]) -> None:
    """Up to the rounding of float64: sums over a batch, or over the parts of it."""
    for step, (expected, found) in enumerate(zip(one, other, strict=True)):
        assert_equal(found, expected, f"iteration {step}", within=1e-10)
