import dataclasses

import numpy as np
import pytest
import torch

from lightning_samseg.online.predictions import PromptPrediction, assemble, merge, sam_alone
from lightning_samseg.prompts.boxes import Box
from lightning_samseg.prompts.regions import share_among_prompts


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
    found = assemble(3, (prompt(crop, 1.0, -2.0, 0.5),), sam)
    assert found.position == 3
    assert found.sam.nonzero().tolist() == [[0, 0], [2, 2], [2, 3], [3, 2], [3, 3]]
    assert found.sam_clipped.sum() == 16
    assert not found.sam_clipped[0, 0]
    assert not found.mask.any()  # 0.5 * 1 - 0.5 * 2 < 0
    assert assemble(3, (prompt(crop, 1.0, -2.0, 0.75),), sam).mask.sum() == 16


@pytest.mark.parametrize(
    ("rule", "foreground"),
    [
        ("sum", [0.2 + 0.2 > 0.5, 0.3 + 0.3 > 0.5, 0.0 + 0.6 > 0.5, 0.0 + 0.26 > 0.5]),
        ("doubled", [True, True, True, True]),  # each probability twice: 0.8, 1.2, 1.2, 0.52
        ("largest", [False, False, True, False]),
    ],
)
def test_how_sam_alone_is_put_together(rule, foreground):
    probabilities = torch.tensor([[[0.2, 0.3, 0.0, 0.0]], [[0.2, 0.3, 0.6, 0.26]]])
    found = assemble(0, (), sam_alone(probabilities.logit(), rule))
    assert found.sam[0].tolist() == foreground
    assert not assemble(0, (), sam_alone(probabilities[:0].logit(), rule)).sam.any()


def test_overlapping_boxes_of_an_adapted_sam_count_a_pixel_once():
    """An adapted SAM answers once: a pixel of 0.3 in two boxes stays background, one of 0.6 foreground."""
    answer = torch.full((1, 12, 12), 0.3)
    answer[0, 5:7, 5:7] = 0.6
    boxes = np.array([[1, 1, 9, 9], [4, 4, 12, 12]])
    shared = share_among_prompts(answer.logit(), boxes)
    assert assemble(0, (), sam_alone(shared, "sum")).sam.sum() == 25  # the fault: every pixel in both boxes
    alone = assemble(0, (), sam_alone(shared, "largest"))
    assert torch.equal(alone.sam, answer[0] > 0.5)
    torch.testing.assert_close(alone.sam_probability, answer[0])


def test_records_are_frozen():
    found = assemble(0, (), torch.zeros(4, 4))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.mask = found.sam


def test_merged_prompts_equal_one_record():
    prompts = (prompt(Box(0, 0, 3, 3), 1.0, 1.0, 0.5), prompt(Box(2, 2, 6, 6), -1.0, 4.0, 0.25))
    maps = torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(0))
    whole = assemble(7, prompts, maps.sum(0))
    merged = merge([assemble(7, (one,), sam) for one, sam in zip(prompts, maps, strict=True)], maps.sum(0))
    assert merged.position == 7
    assert merged.prompts == prompts
    for name in ("mask", "sam_clipped", "sam"):
        assert torch.equal(getattr(merged, name), getattr(whole, name))
    assert merged.mask.sum() == 9 + 16 - 1
