"""Two gloo processes against one with the whole batch."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch

from data_modules import BusiDataModule
from lightning_samseg.methods import CpcSam
from tests.fakes import write_busi


class Recorder(CpcSam):
    """Saves the gradients each optimizer step is made from."""

    folder: Path

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        self.save()

    def save(self) -> None:
        if self.global_rank == 0:
            grads = {n: p.grad for n, p in self.named_parameters() if p.requires_grad}
            torch.save(grads, self.folder / f"{self.global_step}.pt")


def train(folder: Path, data: Path, devices: int, **arguments: Any) -> list[dict[str, torch.Tensor | None]]:
    """Three iterations, the last two with prompts; the gradients of each iteration's (last) AdamW step.

    The rate is 0: AdamW would blow up rounding errors of gradients near zero to whole steps.
    """
    folder.mkdir()
    lightning.seed_everything(1, verbose=False)
    model = Recorder(backbone="tiny", image_size=32, num_classes=1, ssl_start_iter=1, lr=0.0, **arguments)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # or A would have no gradient to compare
            torch.nn.init.normal_(parameter, std=0.1)
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
        strategy="ddp_fork" if devices > 1 else "auto",
        max_steps=3,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=module)
    return [torch.load(folder / f"{step}.pt", weights_only=True) for step in range(3)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_busi(tmp_path_factory.mktemp("busi"), benign=14, malignant=10)


@pytest.mark.parametrize("update", ["joint", "sequential"])
def test_gradients_equal_one_process(tmp_path: Path, data: Path, update: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also shows that no trained parameter stays without a gradient: DDP would stop at the second iteration."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)  # a fork must not inherit a pool of threads
    one = train(tmp_path / "one", data, 1, update=update)
    two = train(tmp_path / "two", data, 2, update=update)
    for step, (expected, found) in enumerate(zip(one, two, strict=True)):
        assert expected.keys() == found.keys()
        for name, gradient in expected.items():
            if gradient is None:
                assert found[name] is None, f"{name} in iteration {step}"
            else:
                difference = (found[name] - gradient).abs().max().item()  # type: ignore[operator]
                assert difference <= 1e-5 * max(1, gradient.abs().max().item()), f"{name} in iteration {step}"
