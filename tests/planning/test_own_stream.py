"""A streaming method of somebody's own, which is no AuxOl: planned, run and asked as any other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_samseg.__main__ import main
from lightning_samseg.methods import AuxOl, Method
from lightning_samseg.planning import Load, dry_run
from lightning_samseg.types import Query, Segmentation, StreamItem
from tests.fakes import write_polyp

SIDE = 32


class Own(Method):
    """Learns from every image at its own size; a memory of three images is full in the middle of a run."""

    uses_stream = True
    prompt_kind = "box"
    column, convention = "aux_ol", "aux_ol"

    def __init__(
        self, width: int = 4, beside: bool = False, num_classes: int = 1, image_size: int = SIDE, seed: int = 42
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.num_classes, self.image_size, self.seed = num_classes, image_size, seed
        self.network = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 1))
        self._frozen = (nn.Conv2d(3, 8, 1),) if beside else ()  # a tuple: no submodule
        self.memory = 0

    def frozen_sam(self, pretrained: bool = True) -> nn.Module | None:
        return self._frozen[0] if self._frozen else None

    def ask_frozen_sam(self, item: StreamItem) -> int:
        if not self._frozen:
            return 0
        with torch.no_grad():
            self._frozen[0](_pixels(item["original"]).expand(2, -1, -1, -1))  # a pass of two images
        return 2

    def to_mid_run(self) -> None:
        self.memory = 2

    def training_step(self, batch: StreamItem, batch_idx: int) -> dict[str, Any]:
        self.memory = min(self.memory + 1, 3)
        if self._frozen:
            self.ask_frozen_sam(batch)
        images = _pixels(batch["original"]).expand(self.memory, -1, -1, -1)
        return {"loss": self.network(images).square().mean(), "records": []}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.network.parameters(), 0.01)

    def answer(self, queries: Any) -> list[Segmentation]:
        return [_answer(self.network(_pixels(each.picture))[0], each) for each in queries]


def _pixels(picture: Any) -> torch.Tensor:
    return torch.tensor(picture).permute(2, 0, 1)[None] / 255


def _answer(logits: torch.Tensor, query: Query) -> Segmentation:
    probability = logits.sigmoid()
    return Segmentation((probability[0] > 0.5).byte().cpu().numpy(), torch.cat([1 - probability, probability]))


def convolution(width: int, height: int, inside: int, out: int, kernel: int) -> float:
    """10^9 operations of a convolution of an image, a multiplication and an addition each."""
    return 2 * width * height * inside * out * kernel**2 / 1e9


def test_operations_and_parameters_are_those_of_its_steps() -> None:
    height, width = 528, 620
    one = convolution(width, height, 3, 4, 3), convolution(width, height, 4, 1, 1)
    alone = dry_run(Own, {}, Load())
    assert (alone.parameters, alone.held, alone.trained) == (117, 117, 117)
    assert alone.sam_gflop == 0
    # The first convolution has a forward pass and its weight's gradient, the second the image's gradient, too.
    assert alone.gflop == pytest.approx(3 * (2 * one[0] + 3 * one[1]), rel=1e-6)  # three: its memory is full
    beside = dry_run(Own, {"beside": True}, Load())
    assert (beside.parameters, beside.held) == (117 + 32, 117)
    assert beside.sam_gflop == pytest.approx(convolution(width, height, 3, 8, 1), rel=1e-6)
    assert beside.gflop - alone.gflop == pytest.approx(beside.sam_gflop, rel=1e-6)  # its share of a pass of two


def test_a_plan_and_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_polyp(tmp_path / "polyp", test={"CVC-300": 2, "Kvasir": 2})
    config = tmp_path / "own.yaml"
    config.write_text(
        "trainer: {accelerator: cpu, logger: false, enable_progress_bar: false}\n"
        f"model: {{class_path: {__name__}.Own, init_args: {{width: 2}}}}\n"
        f"data: {{class_path: data_modules.PolypDataModule, init_args: {{root: {root}, num_workers: 0}}}}\n"
    )
    assert main(["plan", "--config", str(config), "--gpu", "a100"]) == 0
    said = capsys.readouterr().out
    assert "Own, an image a step" in said
    assert "16-mixed" in said  # AuxOL does not take it
    assert main(["fit", "--config", str(config), "--trainer.default_root_dir", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_precisions_of_aux_ol() -> None:
    assert "16-mixed" not in AuxOl.precisions
    assert "16-mixed" in Own.precisions
