"""SAMed on the labelled images: two gloo processes against one with the whole batch."""

from pathlib import Path

import lightning
import pytest
import torch

from data_modules import BusiDataModule
from lightning_samseg.methods import SAMed
from tests.fakes import write_busi


class Recorder(SAMed):
    """Saves the gradients each step is made from."""

    folder: Path

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.global_rank == 0:
            grads = {n: p.grad for n, p in self.named_parameters() if p.requires_grad}
            torch.save(grads, self.folder / f"{self.global_step}.pt")


def train(folder: Path, data: Path, devices: int) -> list[dict[str, torch.Tensor]]:
    """Gradients of two steps at a rate of 0, which keeps rounding errors from growing."""
    folder.mkdir()
    lightning.seed_everything(1, verbose=False)
    model = Recorder(backbone="tiny", image_size=32, num_classes=1, lr=0.0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # or A would have no gradient to compare
            torch.nn.init.normal_(parameter, std=0.1)
    model.folder = folder
    module = BusiDataModule(
        str(data), split="random", image_size=32, num_labelled=5, labelled_batch_size=4 // devices, seed=1
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto",
        max_steps=2,
        limit_val_batches=0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=module)
    return [torch.load(folder / f"{step}.pt", weights_only=True) for step in range(2)]


def test_gradients_equal_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_busi(tmp_path, benign=14, malignant=10)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)  # a fork must not inherit a pool of threads
    one, two = train(tmp_path / "one", data, 1), train(tmp_path / "two", data, 2)
    for expected, found in zip(one, two, strict=True):
        assert expected.keys() == found.keys()
        for name, gradient in expected.items():
            assert (found[name] - gradient).abs().max() <= 1e-5 * max(1, gradient.abs().max().item()), name
