from typing import Any

import pytest
import torch

from lightning_samseg.methods import benchmark_semi
from lightning_samseg.methods.benchmark_semi import METHODS


@pytest.mark.slow
def test_every_method_beside_the_unet() -> None:
    result = benchmark_semi.benchmark_semi(repeats=1, image_size=32, batch=4, num_classes=1, backbone="tiny")
    assert list(result["methods"]) == list(METHODS)
    measured = "seconds" if torch.cuda.is_available() else "cpu_seconds"
    seconds = {name: row[measured] for name, row in result["methods"].items()}
    for name, row in result["methods"].items():
        assert row["over_unet"] == pytest.approx(seconds[name] / seconds["unet"])
        assert row["peak_mib"] is None or row["peak_mib"] >= 0
    assert result["semi_sam_over_mean_teacher"] == pytest.approx(seconds["semi_sam"] / seconds["mean_teacher"])


def test_some_methods_alone() -> None:
    result: dict[str, Any] = benchmark_semi.benchmark_semi(1, 32, 4, 1, "tiny", only="unet,bcp")
    assert list(result["methods"]) == ["unet", "bcp"]
    assert result["semi_sam_over_mean_teacher"] is None
