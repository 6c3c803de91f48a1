import dataclasses

import pytest
import torch

from lightning_samseg.online.records import PromptPrediction, merge, record
from lightning_samseg.prompts.boxes import Box


def prompt(crop, sam, aux, alpha):
    shape = (crop.height, crop.width)
    return PromptPrediction(
        crop,
        torch.zeros(3, 32, 32),
        torch.zeros(1, 32, 32),
        torch.full(shape, sam),
        torch.full(shape, aux),
        torch.tensor(alpha),
    )


def test_three_columns_of_one_image():
    sam = torch.full((6, 8), 0.3)
    sam[0, 0] = 0.6  # outside the crop
    sam[2:4, 2:4] = 0.7
    crop = Box(1, 1, 5, 5)
    found = record(3, (prompt(crop, 1.0, -2.0, 0.5),), sam)
    assert found.position == 3
    assert found.sam.nonzero().tolist() == [[0, 0], [2, 2], [2, 3], [3, 2], [3, 3]]
    assert found.sam_clipped.sum() == 16
    assert not found.sam_clipped[0, 0]
    assert not found.mask.any()  # 0.5 * 1 - 0.5 * 2 < 0
    assert record(3, (prompt(crop, 1.0, -2.0, 0.75),), sam).mask.sum() == 16


def test_records_are_frozen():
    found = record(0, (), torch.zeros(4, 4))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.mask = found.sam


def test_merged_prompts_equal_one_record():
    prompts = (prompt(Box(0, 0, 3, 3), 1.0, 1.0, 0.5), prompt(Box(2, 2, 6, 6), -1.0, 4.0, 0.25))
    maps = torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(0))
    whole = record(7, prompts, maps.sum(0))
    merged = merge([record(7, (one,), sam) for one, sam in zip(prompts, maps, strict=True)])
    assert merged.position == 7
    assert merged.prompts == prompts
    for name in ("mask", "sam_clipped", "sam"):
        assert torch.equal(getattr(merged, name), getattr(whole, name))
    assert merged.mask.sum() == 9 + 16 - 1
