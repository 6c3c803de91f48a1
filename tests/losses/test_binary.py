import math

import numpy as np
import pytest
import torch

from lightning_samseg.losses.binary import UNKNOWN, bce_dice_loss, dice_loss, soft_dice


def test_dice_by_hand():
    # p = 0.5 on four pixels, one of them foreground: (2 * 0.5 + 1) / (2 + 1 + 1) = 0.5
    target = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    logits = torch.zeros(1, 1, 2, 2)
    assert dice_loss(logits, target).tolist() == [0.5]
    assert bce_dice_loss(logits, target).item() == pytest.approx(0.5 + math.log(2), abs=1e-6)


def test_empty_prediction_of_empty_target_is_perfect_and_a_miss_is_not():
    empty = torch.zeros(1, 5, 5)
    full = torch.ones(1, 5, 5)
    assert soft_dice(empty, empty).item() == 1
    assert soft_dice(empty, full).item() == pytest.approx(1 / 26)


def test_one_value_per_entry_equal_to_numpy():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 1, 9, 7))
    y = (rng.random((4, 1, 9, 7)) < 0.3).astype(float)
    p = 1 / (1 + np.exp(-x))
    dice = np.array([1 - (2 * (p[i] * y[i]).sum() + 1) / (p[i].sum() + y[i].sum() + 1) for i in range(4)])
    bce = np.array([-(y[i] * np.log(p[i]) + (1 - y[i]) * np.log(1 - p[i])).mean() for i in range(4)])
    logits, target = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
    np.testing.assert_allclose(dice_loss(logits, target), dice, atol=1e-6)
    np.testing.assert_allclose(bce_dice_loss(logits, target), bce + dice, atol=1e-6)


def test_half_precision_logits_are_summed_in_float32():
    logits = torch.full((1, 1, 400, 400), 8.0, dtype=torch.float16)  # 160,000 pixels overflow float16
    assert dice_loss(logits, torch.ones(1, 1, 400, 400)).item() == pytest.approx(0, abs=1e-3)


def test_unknown_pixels_by_hand():
    # As in the first test, beside two pixels that nobody judges.
    target = torch.tensor([[[[1.0, 0.0, UNKNOWN], [0.0, 0.0, UNKNOWN]]]])
    logits = torch.tensor([[[[0.0, 0.0, 7.0], [0.0, 0.0, -9.0]]]]).requires_grad_()
    assert dice_loss(logits, target).tolist() == [0.5]
    loss = bce_dice_loss(logits, target)
    assert loss.item() == pytest.approx(0.5 + math.log(2), abs=1e-6)
    loss.sum().backward()
    assert (logits.grad[..., 2] == 0).all()
    nothing = torch.full((1, 1, 2, 3), UNKNOWN)
    assert bce_dice_loss(logits, nothing).item() == 0
    assert soft_dice(torch.rand(2, 2, 3), nothing[0]).tolist() == [1, 1]
