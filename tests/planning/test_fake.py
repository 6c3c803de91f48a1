"""Tensors without content, and what code that reads them gets."""

from pathlib import Path

import pytest
import torch

from lightning_samseg.models.meter import Meter
from lightning_samseg.planning import shapes_only
from lightning_samseg.planning.fake import forget_files


def test_host_reads_have_the_right_form() -> None:
    with shapes_only(num_classes=2):
        labels = torch.zeros(2, 6, 6, dtype=torch.long)
        array = labels.to(torch.uint8).cpu().numpy()
        assert array.shape == (2, 6, 6)
        assert set(array[0, 0]) == {0, 1, 2}
        assert bool((labels > 0).all())
        assert torch.rand(()).item() == 1
        chosen = torch.rand(4, 5, 3)
        chosen[labels[0, :4, :5] == 1] += 1
        assert chosen.shape == (4, 5, 3)
    assert torch.nn.Linear(2, 2).double().weight.dtype == torch.float64


@pytest.mark.parametrize("size", [64, 640_000_000])
def test_fake_tensors_take_no_memory(size: int) -> None:
    with shapes_only(num_classes=1), Meter() as meter:
        kept = torch.empty(size) + 1
        assert meter.alive == 4 * size
        del kept


def test_a_file_that_was_read_is_let_go(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(1000), "moments": torch.zeros(2000)}, tmp_path / "file.ckpt")
    with shapes_only(num_classes=1), Meter() as meter:
        content = torch.load(tmp_path / "file.ckpt", weights_only=True, mmap=True)
        assert meter.alive == 4 * 3000
        del content
        forget_files()
        assert meter.alive == 0
