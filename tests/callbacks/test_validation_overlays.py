"""Which images are drawn at every validation, and the panels of CPC-SAM."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lightning_samseg.callbacks import validation_overlays
from lightning_samseg.callbacks.overlays import CLASS_COLOURS
from lightning_samseg.callbacks.validation_overlays import ValidationOverlays, draw_marks, draw_panel
from lightning_samseg.methods.cpc_sam import CpcSam
from lightning_samseg.types import Case, Marks


def drawn(monkeypatch: pytest.MonkeyPatch, filled: list[bool], batch_size: int = 4, limit: int = 4) -> list[str]:
    """Names given to the loggers in one validation over images with or without foreground."""
    given: list[str] = []
    monkeypatch.setattr(validation_overlays, "log_image", lambda trainer, name, image, step: given.append(name))
    batches = [list(range(len(filled)))[i : i + batch_size] for i in range(0, len(filled), batch_size)]
    trainer: Any = SimpleNamespace(is_global_zero=True, loggers=[1], num_val_batches=[len(batches)], global_step=3)
    module: Any = object()
    callback = ValidationOverlays(limit)
    for _ in range(2):
        given.clear()
        callback.on_validation_start(trainer, module)
        for index, numbers in enumerate(batches):
            masks = [np.full((8, 8), filled[n], np.uint8) for n in numbers]
            inputs: Any = {
                "cases": [Case(f"c{n}", "x", (8, 8), (8, 8)) for n in numbers],
                "original": [np.zeros((8, 8, 3), np.uint8)] * len(numbers),
                "reference": masks,
            }
            callback.on_validation_batch_end(trainer, module, masks, inputs, index)
    return given


def test_spread_evenly_and_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawn(monkeypatch, [True] * 80) == ["val/c10", "val/c30", "val/c50", "val/c70"]
    assert drawn(monkeypatch, [True] * 3, batch_size=3) == ["val/c0", "val/c1", "val/c2"]


def test_images_without_foreground_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    filled = [False] * 13 + [True] * 67
    assert drawn(monkeypatch, filled) == ["val/c13", "val/c30", "val/c50", "val/c70"]
    assert drawn(monkeypatch, [False] * 8) == []


def test_points_lie_where_the_prompt_is() -> None:
    panel = np.full((40, 80, 3), 90, np.uint8)
    points = torch.tensor([[4.0, 5.0], [15.0, 10.0], [0.0, 0.0]])
    draw_marks(panel, Marks(points, torch.tensor([1, 0, -1]), "disc"), (4.0, 2.0))  # from an input of 20 x 20
    assert (panel[10, 18] == CLASS_COLOURS[0]).all()
    assert (panel[20, 62] == 255).all()
    assert (panel[:5, :5] == 90).all()


def test_a_panel_for_each_branch_the_same_every_time() -> None:
    torch.manual_seed(0)
    method = CpcSam(sam={"backbone": "tiny"}, image_size=32, num_classes=1).eval()
    case = Case("c", "x", (30, 50), (32, 32))
    picture = np.full((30, 50, 3), 90, np.uint8)
    with torch.no_grad():
        shown = [method.panels(torch.rand(1, 3, 32, 32, generator=g), case) for g in seeds()]
    first, second = ([draw_panel(panel, case, picture) for panel in panels] for panels in shown)
    assert [panel.title for panel in shown[0]] == ["branch 1, its points", "branch 2, its points"]
    assert len(first) == 2
    assert all(panel.shape == picture.shape for panel in first)
    np.testing.assert_array_equal(first, second)
    assert any((panel != 90).any() for panel in first)
    assert (picture == 90).all()


def seeds() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1) for _ in range(2)]
