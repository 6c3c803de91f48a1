"""The benchmark of a prompt of AuxOL: its parts, its ways, and that the fast one is the preset."""

from pathlib import Path

import pytest
import torch
import yaml

from lightning_samseg.errors import UserError
from lightning_samseg.methods.benchmark_online import FAST, PARTS, WAYS, benchmark_online, merged, ready

PRESET = Path(__file__).parents[2] / "experiments" / "aux_ol" / "preset_fast.yaml"
SMALL = {"sam": {"backbone": "tiny"}, "auxiliary": {"width": 1 / 16}, "crop": {"size": 32}}


@pytest.mark.slow
def test_the_parts_of_a_prompt_add_up() -> None:
    result = benchmark_online(
        "tiny", repeats=1, width=1 / 16, crop_size=32, image_size=(40, 60), ways="before, fp32,bf16"
    )
    for name in ("before", "fp32", "bf16"):
        way = result[name]
        assert list(way["parts_s"]) == list(PARTS)
        assert min(way["parts_s"].values()) > 0
        assert way["prompt_s"] == pytest.approx(sum(way["parts_s"].values()))
        assert way["times_as_fast"]["prompt"] == pytest.approx(result["before"]["prompt_s"] / way["prompt_s"])
    assert result["before"]["times_as_fast"] == {"prompt": 1, "learn": 1, "cpu": 1}
    with pytest.raises(UserError, match="no way 'fp16'"):
        benchmark_online(ways="fp16")


def test_each_way_is_what_it_says() -> None:
    ways = {
        name: ready(merged(SMALL, changes), "cpu", name == "before") for name, changes in WAYS.items() if name != "fast"
    }
    fused = {name: way.learner.network.optimizer.param_groups[0]["fused"] for name, way in ways.items()}
    assert fused == {"before": False, "fp32": True, "bf16": True}
    assert {name: way.learner.network.precision for name, way in ways.items()} == {
        "before": "trainer",
        "fp32": "trainer",
        "bf16": "bf16",
    }
    batch = ways["fp32"].learner.batch
    assert len(batch) == batch.capacity == 32
    weights = [list(way.auxiliary.parameters()) for way in ways.values()]
    assert all(torch.equal(a, b) for other in weights[1:] for a, b in zip(weights[0], other, strict=True))


def test_the_fast_way_is_the_preset() -> None:
    assert yaml.safe_load(PRESET.read_text())["model"]["init_args"] == FAST
